from utils.analysis.fitting import *
from utils.analysis.fitting import _check_refits
from utils.analysis.rois import *
from utils.analysis.searchlights import *
from utils.analysis.significance import *

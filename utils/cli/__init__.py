from utils.cli.options import Help, Parser, add_dask_option, add_threads_option, parse, size
from utils.cli.run import (
    HOME,
    NO_ATLAS,
    SIMULATED,
    choose_device,
    execute,
    find_data,
    progress,
    publish,
    record,
    report,
    warn,
    warned,
    workers,
)
from utils.parallel.threads import available_cores

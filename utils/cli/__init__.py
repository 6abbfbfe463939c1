from utils.cli.options import Help, Parser, add_dask_option, add_data_options, add_threads_option, parse, size
from utils.cli.run import (
    HOME,
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

//! The program; see [`lakebase_local::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    lakebase_local::command::main("lakebase-local", std::env::args_os().skip(1))
}

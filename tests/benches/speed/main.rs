//! Benchmarks of these crates, compared with the drivers alone.
//!
//! `cargo bench -p lakebase-tests --bench speed [-- TABLE... --rounds N]` measures, and `cargo run -p lakebase-tests --bin
//! benchmarks` writes the figures into `BENCHMARKS.md`. Without a name, all tables are measured except `build`, which takes
//! several minutes more.
//!
//! The platform and the slow network run in other processes. The variants alternate in small slices of one run. An error
//! ends the program.

mod build;
mod checkout;
mod cold;
mod credential;
mod figures;
mod logins;
mod memory;
mod orms;
mod places;
mod platform;
mod rotation;

use std::path::Path;
use std::time::Duration;

use figures::Table;
use tokio::runtime::Runtime;

/// The program ends after this time.
const LIMIT: Duration = Duration::from_secs(40 * 60);
const ROUNDS: u32 = 20;

const MEASURES: [&str; 8] = [
    "credential",
    "logins",
    "checkout",
    "rotation",
    "cold",
    "orms",
    "memory",
    "build",
];

fn main() {
    // A thousand sessions need two sockets each.
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(65_536), most).expect("files");

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", lifetime, delay, port] => platform::serve(lifetime, delay, port),
        ["delay", to] => platform::delay(to),
        ["sessions"] => memory::sessions(),
        ["server"] => memory::server(),
        ["tls", address, ca_file] => memory::bare_tls(address, ca_file),
        ["users"] => memory::users(),
        _ => bench(&arguments),
    }
}

fn bench(arguments: &[&str]) {
    let mut rounds = ROUNDS;
    let mut wanted = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            // An argument of cargo.
            "--bench" => {}
            "--rounds" => {
                let number = arguments.next().and_then(|number| number.parse().ok());
                rounds = number.filter(|rounds| *rounds > 0).expect("--rounds N");
            }
            name => {
                assert!(
                    MEASURES.contains(&name),
                    "{name}: one of {MEASURES:?}, or --rounds N"
                );
                wanted.push(name);
            }
        }
    }
    if wanted.is_empty() {
        wanted.extend(MEASURES.iter().filter(|name| **name != "build"));
    }
    if wanted.contains(&"rotation") {
        rotation::check_clients();
    }
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        eprint("the benchmark hangs");
        std::process::exit(1);
    });
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/speed.json");
    for name in wanted {
        eprint(&format!("{name}, {rounds} rounds"));
        let tables = match name {
            "credential" => credential::measure(rounds),
            "logins" => logins::measure(rounds),
            "checkout" => checkout::measure(rounds),
            "rotation" => rotation::measure(rounds),
            "cold" => cold::measure(rounds),
            "orms" => orms::measure(rounds),
            "memory" => memory::measure(rounds),
            _ => build::measure(),
        };
        for table in tables {
            table.print();
            table.save(&file);
        }
    }
}

fn eprint(text: &str) {
    eprintln!("{text}");
}

pub fn runtime(threads: usize) -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).enable_all().build();
    runtime.expect("a runtime")
}

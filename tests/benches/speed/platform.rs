//! The platform and the slow network, each in its own process.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lakebase_core::{Config, Lakebase};
use lakebase_local::{Call, Fault, LocalLakebase};

const ONE_WAY: Duration = Duration::from_millis(1);
/// The time of each request to a slow workspace.
pub const SLOW: Duration = Duration::from_millis(300);
pub const NATIVE: &str = "native";
pub const PASSWORD: &str = "a-password";
const HOUR: Duration = Duration::from_secs(3600);

/// Variables of a platform.
pub type Vars = BTreeMap<String, String>;

/// Another process of this program. It ends with its input, so it does not outlive this process.
pub struct Other {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Other {
    pub fn start(arguments: &[&str], vars: &Vars) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        // Only these variables configure it.
        if !vars.is_empty() {
            command.env_clear();
        }
        let mut child = command
            .args(arguments)
            .envs(vars)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let output = child.stdout.take().expect("output");
        Self {
            input: child.stdin.take(),
            output: BufReader::new(output),
            child,
        }
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert!(
            line.ends_with('\n'),
            "another process of the benchmark stopped"
        );
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, question: &str) -> String {
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{question}").expect("written");
        self.line()
    }

    /// Returns the user and system time that it has used.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("a process");
        // The name before the fields can contain any characters.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: u64 = [11, 12]
            .map(|n| fields[n].parse::<u64>().expect("ticks"))
            .iter()
            .sum();
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
        let per_second = per_second.expect("known").expect("known");
        Duration::from_secs_f64(ticks as f64 / per_second as f64)
    }

    /// Returns the resident memory in kB.
    pub fn resident_kb(&self) -> f64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()));
        let statm = statm.expect("a process");
        let pages = statm
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse::<f64>().ok());
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
        pages.expect("pages") * page.expect("known").expect("known") as f64 / 1024.0
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// Answers each line until the end of the input.
pub fn answer(mut reply: impl FnMut(&str) -> String) {
    for question in std::io::stdin().lines() {
        println!("{}", reply(question.expect("text").trim()));
    }
}

/// The address of Postgres.
#[derive(Clone, Copy)]
pub enum Port {
    /// A free port of localhost, because Node cannot verify a certificate for an address.
    Free,
    /// Port 5432 of another address, because one of the official clients has no setting for the port.
    Usual,
}

/// A local Lakebase.
pub struct Platform {
    process: Other,
    pub vars: Vars,
}

impl Platform {
    /// Starts with tokens of an hour and without delays.
    pub fn start() -> Self {
        Self::with(HOUR, Duration::ZERO, Port::Free)
    }

    pub fn with(lifetime: Duration, delay: Duration, port: Port) -> Self {
        let millis = |time: Duration| time.as_millis().to_string();
        let port = match port {
            Port::Free => "0",
            Port::Usual => "5432",
        };
        let arguments = ["serve", &millis(lifetime), &millis(delay), port];
        let mut process = Other::start(&arguments, &Vars::new());
        let lines = std::iter::from_fn(|| Some(process.line()).filter(|line| !line.is_empty()));
        let vars = lines.map(|line| {
            let (name, value) = line.split_once('=').expect("a variable");
            (name.to_owned(), value.to_owned())
        });
        let vars = vars.collect();
        Self { process, vars }
    }

    pub fn lakebase(&self, changes: &[(&str, &str)]) -> Lakebase {
        lakebase_with(&self.vars, changes)
    }

    /// Returns the number of minted credentials.
    pub fn minted(&mut self) -> u64 {
        self.process.ask("minted").parse().expect("a number")
    }

    /// Adds a user with a role, and returns the token.
    pub fn add_user(&mut self, name: &str) -> String {
        self.process.ask(&format!("user {name}"))
    }
}

pub fn lakebase_with(vars: &Vars, changes: &[(&str, &str)]) -> Lakebase {
    let mut vars = vars.clone();
    vars.extend(
        changes
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned())),
    );
    let config = Config::from_vars(vars).expect("a configuration");
    Lakebase::new(config).expect("a handle")
}

pub fn serve(lifetime: &str, delay: &str, port: &str) {
    let millis = |text: &str| Duration::from_millis(text.parse().expect("milliseconds"));
    let (lifetime, delay) = (millis(lifetime), millis(delay));
    let runtime = super::runtime(2);
    let mut builder = LocalLakebase::builder().token_lifetime(lifetime);
    if port != "0" {
        let [.., high, low] = std::process::id().to_be_bytes();
        builder = builder
            .postgres_ip([127, 99, high, low.clamp(1, 254)].into())
            .postgres_port(port.parse().expect("a port"));
    }
    let local = runtime.block_on(builder.start()).expect("a platform");
    runtime.block_on(async {
        let role = local.create_native_role(NATIVE, PASSWORD);
        role.await.expect("a role");
        local.sql(super::orms::TABLES).await.expect("tables");
    });
    if !delay.is_zero() {
        for call in [
            Call::Discovery,
            Call::Token,
            Call::Credential,
            Call::Endpoint,
            Call::Me,
        ] {
            local.fail(call, Fault::Slow(delay));
        }
    }
    let principal = [
        ("USER_TOKEN", local.user_token()),
        ("USER_NAME", local.user()),
    ];
    for (name, value) in local.env() {
        println!("{name}={value}");
    }
    for (name, value) in principal {
        println!("{name}={value}");
    }
    println!();
    answer(|question| match question.split_once(' ') {
        Some(("user", name)) => {
            local.add_user(name);
            runtime.block_on(local.create_role(name)).expect("a role");
            local.forwarded_token(name, HOUR, &["postgres"])
        }
        _ => local.counters().minted.to_string(),
    });
    runtime.block_on(local.stop());
}

/// The slow network. It uses threads, because timers of tokio are in milliseconds.
pub fn delay(to: &str) {
    let to: SocketAddr = to.parse().expect("an address");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address").port());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(to).expect("the platform");
            let pairs = [
                (client.try_clone(), server.try_clone(), ONE_WAY * 3),
                (server.try_clone(), client.try_clone(), ONE_WAY),
            ];
            for (from, to, first) in pairs {
                let (from, to) = (from.expect("a socket"), to.expect("a socket"));
                to.set_nodelay(true).expect("set");
                carry(from, to, first);
            }
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Forwards bytes with a delay. The first bytes take longer, because opening a connection is a round trip.
fn carry(mut from: TcpStream, mut to: TcpStream, first: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut takes = first;
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let bytes = buffer[..read].to_vec();
            if sender.send((Instant::now() + takes, bytes)).is_err() {
                break;
            }
            takes = ONE_WAY;
        }
    });
    std::thread::spawn(move || {
        for (at, bytes) in receiver {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

//! A process that was stopped until its token expired (SIGSTOP, a frozen container, a closed laptop) does not use that token.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use lakebase_local::LocalLakebase;
use lakebase_tests::{
    Adapter, TooSlow, UNDER_WAY, every_adapter_in_time, local_with_tokens_of, logged_in, minted,
    no_expired_token_was_used, soon,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const LIFETIME: Duration = Duration::from_secs(2);

struct Puppet {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Puppet {
    async fn start(adapter: Adapter, local: &LocalLakebase) -> Result<Self, TooSlow> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_puppet"))
            .arg(adapter.name())
            .env_clear()
            .envs(local.env())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut puppet = Self {
            child,
            orders,
            answers,
        };
        logged_in(local, puppet.answers("ready").await)?;
        Ok(puppet)
    }

    /// Returns the answer as an error if it is another one.
    async fn answers(&mut self, expected: &str) -> Result<(), String> {
        let line = soon(self.answers.next_line()).await.expect("readable");
        let line = line.expect("an answer");
        (line == expected).then_some(()).ok_or(line)
    }

    async fn order(&mut self) {
        self.orders.write_all(b"log in\n").await.expect("written");
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("it runs").try_into().expect("small");
        kill(Pid::from_raw(id), signal).expect("it is ours");
    }
}

#[tokio::test]
async fn a_process_that_continues_does_not_use_its_expired_token() {
    every_adapter_in_time(async |adapter| {
        let local = local_with_tokens_of(LIFETIME).await;
        let mut puppet = Puppet::start(adapter, &local).await?;
        for _ in 0..2 {
            puppet.order().await;
            logged_in(&local, puppet.answers("ok").await)?;
            puppet.signal(Signal::SIGSTOP);
            // The process reads this order when it continues, before any timer fires.
            puppet.order().await;
            let expires_at = minted(&local.events()).last().expect("a token").expires_at;
            let left = expires_at.duration_since(SystemTime::now());
            // The token has to expire, and longer ago than a slow login could explain.
            let margin = UNDER_WAY + Duration::from_millis(100);
            tokio::time::sleep(left.unwrap_or_default() + margin).await;
            puppet.signal(Signal::SIGCONT);
            logged_in(&local, puppet.answers("ok").await)?;
        }
        no_expired_token_was_used(&local)
    })
    .await;
}

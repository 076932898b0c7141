//! Copies a session's bytes in both directions, in one task with two buffers of fixed size.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};

use super::checks::{ANSWER_LIMIT, Checks};
use super::follow::{Follow, Malformed};
use super::pipe::Pipe;
use super::server::Wire;
use super::socket::Stream;

/// After this many bytes that the server does not read, it is probably busy, and the network is not lost.
const LARGE: usize = 32 * 1024;
/// Limit for sending the last bytes of a session.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Server,
    /// The server did not answer a check.
    Unresponsive,
    /// The proxy shuts down, and the session was idle.
    Drained,
    Malformed,
}

impl From<Malformed> for End {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A logged-in session.
pub(super) struct Relay<'a> {
    client: &'a mut dyn Stream,
    server: &'a mut dyn Wire,
    checks: &'a Checks,
    follow: Follow,
    up: Pipe,
    down: Pipe,
    needs_flush: bool,
    /// Bytes sent to the server since the session was idle.
    sent: usize,
    /// When the server last sent something.
    received: Duration,
    /// The deadline for the server's reply to a check.
    answer_due: Option<Pin<Box<Sleep>>>,
    is_draining: bool,
}

impl<'a> Relay<'a> {
    /// `follow` has processed all earlier messages of the server.
    pub(super) fn new(
        client: &'a mut dyn Stream,
        server: &'a mut dyn Wire,
        follow: Follow,
        checks: &'a Checks,
    ) -> Self {
        Self {
            client,
            server,
            checks,
            follow,
            up: Pipe::new(),
            down: Pipe::new(),
            needs_flush: false,
            sent: 0,
            received: checks.now(),
            answer_due: None,
            is_draining: false,
        }
    }

    /// Runs until one side closes its connection, and closes the other one.
    pub(super) async fn run(mut self, mut drain: watch::Receiver<bool>) -> End {
        let end = tokio::select! {
            biased;
            end = poll_fn(|cx| self.poll(cx)) => end,
            () = wait_for_drain(&mut drain) => {
                self.is_draining = true;
                poll_fn(|cx| self.poll(cx)).await
            }
        };
        let _ = timeout(CLOSE_LIMIT, self.close(end)).await;
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.carry(cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(end) => return Poll::Ready(end),
            }
        }
        if self.is_draining && self.is_at_rest() {
            return Poll::Ready(End::Drained);
        }
        if let Some(due) = &mut self.answer_due
            && due.as_mut().poll(cx).is_ready()
        {
            self.checks.note_unanswered();
            return Poll::Ready(End::Unresponsive);
        }
        Poll::Pending
    }

    fn is_at_rest(&self) -> bool {
        self.follow.is_idle() && self.up.is_empty() && self.down.is_empty()
    }

    /// Copies in each direction once. Returns whether it has moved any byte.
    fn carry(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        // The server first: the proxy must not answer a check if the server has closed the connection.
        let from_server = self.read_server(cx)?;
        let to_client = self.down.drain(self.client, cx);
        let to_client = to_client.map_err(|_| End::Client)?;
        let from_client = self.read_client(cx)?;
        let to_server = self.send_to_server(cx)?;
        Ok(from_server || from_client || to_client + to_server > 0)
    }

    fn read_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let has_read = self.down.fill(self.server, cx);
        if !has_read.map_err(|_| End::Server)? {
            return Ok(false);
        }
        self.received = self.checks.now();
        self.answer_due = None;
        self.follow.server_sent(self.down.held())?;
        Ok(true)
    }

    fn read_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let has_read = self.up.fill(self.client, cx);
        if !has_read.map_err(|_| End::Client)? {
            return Ok(false);
        }
        match self.follow.answer(self.up.held()) {
            Some(answer) => self.check(answer)?,
            None => self.follow.client_sent(self.up.held())?,
        }
        Ok(true)
    }

    /// Answers a check in place of the server, or sets a deadline for the server's reply.
    fn check(&mut self, answer: &[u8]) -> Result<(), End> {
        // While a driver leaves bytes unread, the proxy does not read from the server, so it knows nothing about the server.
        if self.down.is_empty() {
            if self.checks.is_lost(self.received) {
                return Err(End::Unresponsive);
            }
            if self.checks.is_alive(self.received) {
                self.up.set(&[]);
                self.down.set(answer);
                return Ok(());
            }
            self.answer_due = Some(Box::pin(sleep(ANSWER_LIMIT)));
        }
        Ok(self.follow.client_sent(self.up.held())?)
    }

    fn send_to_server(&mut self, cx: &mut Context<'_>) -> Result<usize, End> {
        let sent = self.up.drain(self.server, cx);
        let sent = sent.map_err(|_| End::Server)?;
        self.needs_flush |= sent > 0;
        self.count(sent);
        // TLS buffers written bytes until they are flushed.
        if self.needs_flush && self.up.is_empty() {
            let flushed = Pin::new(&mut *self.server).poll_flush(cx);
            self.needs_flush = flushed.map_err(|_| End::Server)?.is_pending();
        }
        Ok(sent)
    }

    /// Counts the bytes sent since the session was idle.
    fn count(&mut self, sent: usize) {
        let was_large = self.sent > LARGE;
        self.sent = match self.follow.is_idle() {
            true => 0,
            false => self.sent.saturating_add(sent),
        };
        if was_large != (self.sent > LARGE) {
            self.server.set_user_timeout(was_large);
        }
    }

    async fn close(&mut self, end: End) {
        const TERMINATE: &[u8] = b"X\0\0\0\x04";
        match end {
            // The client's last bytes, usually `Terminate`.
            End::Client => {
                let _ = self.server.write_all(self.up.held()).await;
                let _ = self.server.shutdown().await;
            }
            End::Drained => {
                let _ = self.server.write_all(TERMINATE).await;
                let _ = self.server.shutdown().await;
                let _ = self.client.write_all(&super::report::ended()).await;
            }
            // The server's last message: a write can fail before the proxy has read it.
            End::Server => {
                let _ = self.client.write_all(self.down.held()).await;
                let _ = tokio::io::copy(&mut self.server, self.client).await;
            }
            End::Unresponsive | End::Malformed => {}
        }
    }
}

/// Waits for a shutdown of the proxy.
pub(super) async fn wait_for_drain(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|is_draining| *is_draining).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncReadExt as _, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::credential::clock::{SystemClock, Watch};

    const SYNC: &[u8] = b"S\0\0\0\x04";
    const READY: &[u8] = b"Z\0\0\0\x05I";

    /// A unit test, because the public API does not control how many bytes the kernel buffers for a driver.
    #[tokio::test(start_paused = true)]
    async fn a_check_does_not_end_the_session_of_a_driver_that_leaves_bytes_unread() {
        // Without and with an unanswered check of another session.
        for unanswered in [0, 2000] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let (wire, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (mut wire, (mut server, _)) = (wire.unwrap(), accepted.unwrap());
            let (mut driver, mut client) = duplex(16);
            let clock = Arc::new(Watch::new(Arc::new(SystemClock)));
            let checks = Checks::new(Duration::ZERO, clock);
            checks.unanswered.store(unanswered, Ordering::Relaxed);
            let mut follow = Follow::default();
            follow.server_sent(READY).unwrap();
            let (_drain, draining) = watch::channel(false);
            let relay = Relay::new(&mut client, &mut wire, follow, &checks).run(draining);
            let conversation = async {
                // A notification: the session stays idle.
                let notification = [&b"A\0\0\x03\xe8"[..], &[0; 996]].concat();
                server.write_all(&notification).await.unwrap();
                let first = driver.read_u8().await.unwrap();
                driver.write_all(SYNC).await.unwrap();
                server.read_exact(&mut [0; SYNC.len()]).await.unwrap();
                server.write_all(READY).await.unwrap();
                sleep(ANSWER_LIMIT * 10).await;
                let mut received = vec![first; notification.len() + READY.len()];
                driver.read_exact(&mut received[1..]).await.unwrap();
                assert_eq!(received, [&notification, READY].concat());
            };
            tokio::select! {
                end = relay => panic!("{end:?}, {unanswered}"),
                () = conversation => {}
            }
        }
    }
}

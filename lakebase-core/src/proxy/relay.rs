//! Carries a session's bytes both ways, in one task, with two buffers of fixed size.

use std::future::{Future, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};

use super::follow::Follow;
use super::server::Wire;
use crate::credential::clock::Watch;

/// Four TLS records. Resident only as far as a session uses it.
const BUFFER: usize = 64 * 1024;
/// A check that is passed on must be answered within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// More than that on its way to a server that does not take it is patience, not a lost network.
const MUCH: usize = 32 * 1024;
/// For the last bytes of a session.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Server,
    /// The server did not answer a check.
    Unresponsive,
    /// The proxy ends, and the session was idle.
    Drained,
    Malformed,
}

/// Bytes on their way from one side to the other.
struct Pipe {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Pipe {
    fn new() -> Self {
        Self {
            bytes: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn held(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Fills the empty buffer. Zero at the end of the stream.
    fn poll_fill<R: AsyncRead + Unpin + ?Sized>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(&mut self.bytes);
        ready!(Pin::new(from).poll_read(cx, &mut buf))?;
        (self.start, self.end) = (0, buf.filled().len());
        Poll::Ready(Ok(self.end))
    }

    /// Writes until the buffer is empty. Ready with whether anything was written.
    fn poll_drain<W: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let began = self.start;
        while !self.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, &self.bytes[self.start..self.end]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.start += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if self.start == began => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(self.start != began))
    }
}

/// When drivers' checks whether a session is alive go to the server.
pub(super) struct Checks {
    /// They are answered in its place if it was heard from within this time.
    after: Duration,
    clock: Arc<Watch>,
    /// Since when a server has not answered one. Sessions that were not heard from since then are most likely
    /// as dead: waiting for each of them would add up.
    lost: Mutex<Option<Duration>>,
}

impl Checks {
    pub(super) fn new(after: Duration, clock: Arc<Watch>) -> Self {
        Self {
            after,
            clock,
            lost: Mutex::default(),
        }
    }

    /// On a clock that goes on while the machine is suspended.
    fn now(&self) -> Duration {
        self.clock.passed()
    }

    fn lost(&self) -> MutexGuard<'_, Option<Duration>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A logged-in session.
pub(super) struct Relay<'a, C> {
    client: &'a mut C,
    server: &'a mut dyn Wire,
    checks: &'a Checks,
    follow: Follow,
    up: Pipe,
    down: Pipe,
    is_unflushed: bool,
    /// Since the session was idle.
    sent: usize,
    heard: Duration,
    /// The end of the time for the answer to a check that was passed on.
    answer: Option<Pin<Box<Sleep>>>,
}

impl<'a, C> Relay<'a, C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        client: &'a mut C,
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
            is_unflushed: false,
            sent: 0,
            heard: checks.now(),
            answer: None,
        }
    }

    /// Until one side ends. A dropped client ends the server's session and the other way round.
    pub(super) async fn run(mut self, mut drain: watch::Receiver<bool>) -> End {
        let mut draining = Box::pin(async move {
            // A sender that is gone has not asked for it.
            if drain.wait_for(|drain| *drain).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        let mut is_draining = false;
        let end = poll_fn(|cx| {
            if let Poll::Ready(end) = self.poll(cx) {
                return Poll::Ready(end);
            }
            is_draining = is_draining || draining.as_mut().poll(cx).is_ready();
            if is_draining && self.is_at_rest() {
                return Poll::Ready(End::Drained);
            }
            let answer = self.answer.as_mut();
            match answer.map(|answer| answer.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => {
                    let began = self.checks.now().saturating_sub(ANSWER_LIMIT);
                    *self.checks.lost() = Some(began);
                    Poll::Ready(End::Unresponsive)
                }
                _ => Poll::Pending,
            }
        })
        .await;
        let _ = timeout(GOODBYE_LIMIT, self.say_goodbye(end)).await;
        end
    }

    fn is_at_rest(&self) -> bool {
        self.follow.is_idle() && self.up.is_empty() && self.down.is_empty()
    }

    /// Goes on until nothing more can be done at the moment.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let mut is_moving = false;
            // The server first: a check must not be answered for one that is gone.
            if self.down.is_empty() {
                match self.down.poll_fill(self.server, cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Server),
                    Poll::Ready(Ok(_)) => {
                        is_moving = true;
                        self.heard = self.checks.now();
                        self.answer = None;
                        if self.follow.server_sent(self.down.held()).is_err() {
                            return Poll::Ready(End::Malformed);
                        }
                    }
                    Poll::Pending => {}
                }
            }
            match self.down.poll_drain(self.client, cx) {
                Poll::Ready(Ok(has_moved)) => is_moving |= has_moved,
                Poll::Ready(Err(_)) => return Poll::Ready(End::Client),
                Poll::Pending => {}
            }
            if self.up.is_empty() {
                match self.up.poll_fill(self.client, cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Client),
                    Poll::Ready(Ok(_)) => {
                        is_moving = true;
                        if let Some(answer) = self.follow.answer(self.up.held())
                            && let ControlFlow::Break(end) = self.check(answer)
                        {
                            return Poll::Ready(end);
                        }
                        if self.follow.client_sent(self.up.held()).is_err() {
                            return Poll::Ready(End::Malformed);
                        }
                    }
                    Poll::Pending => {}
                }
            }
            let held = self.up.held().len();
            match self.up.poll_drain(self.server, cx) {
                Poll::Ready(Ok(has_moved)) => {
                    is_moving |= has_moved;
                    self.is_unflushed |= has_moved;
                    self.count(held - self.up.held().len());
                }
                Poll::Ready(Err(_)) => return Poll::Ready(End::Server),
                Poll::Pending => {}
            }
            // TLS holds back what was not flushed.
            if self.is_unflushed && self.up.is_empty() {
                match Pin::new(&mut *self.server).poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.is_unflushed = false,
                    Poll::Ready(Err(_)) => return Poll::Ready(End::Server),
                    Poll::Pending => {}
                }
            }
            if !is_moving {
                return Poll::Pending;
            }
        }
    }

    /// Counts what was sent since the session was idle.
    fn count(&mut self, sent: usize) {
        let was_much = self.sent > MUCH;
        self.sent = match self.follow.is_idle() {
            true => 0,
            false => self.sent.saturating_add(sent),
        };
        if was_much != (self.sent > MUCH) {
            self.server.set_user_timeout(was_much);
        }
    }

    /// Answers a check in the place of the server, or sets the time by which the server must.
    fn check(&mut self, answer: &[u8]) -> ControlFlow<End> {
        if self.checks.lost().is_some_and(|lost| self.heard < lost) {
            return ControlFlow::Break(End::Unresponsive);
        }
        // A driver that has not read everything yet waits for more than this answer.
        if self.down.is_empty() {
            let silence = self.checks.now().saturating_sub(self.heard);
            if silence < self.checks.after {
                self.up.clear();
                self.down.put(answer);
            } else {
                self.answer = Some(Box::pin(sleep(ANSWER_LIMIT)));
            }
        }
        ControlFlow::Continue(())
    }

    async fn say_goodbye(&mut self, end: End) {
        const TERMINATE: &[u8] = b"X\0\0\0\x04";
        match end {
            // What it sent last, most likely that it leaves.
            End::Client => {
                let _ = self.server.write_all(self.up.held()).await;
                let _ = self.server.shutdown().await;
            }
            End::Drained => {
                let _ = self.server.write_all(TERMINATE).await;
                let _ = self.server.shutdown().await;
                let _ = self.client.write_all(&super::report::ended()).await;
            }
            // What it said last: a write can fail before that was read.
            End::Server => {
                let _ = self.client.write_all(self.down.held()).await;
                let _ = tokio::io::copy(&mut self.server, self.client).await;
            }
            End::Unresponsive | End::Malformed => {}
        }
    }
}

//! The buffer of one direction of a session.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Four TLS records. The system allocates pages only as a session uses them.
const BUFFER: usize = 64 * 1024;

/// A buffer that is filled only when it is empty, which gives back-pressure.
pub(super) struct Pipe {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Pipe {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Replaces the contents.
    pub(super) fn set(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }

    /// Reads if the buffer is empty. Returns whether it has read anything; the end of the stream is an error.
    pub(super) fn fill<R>(&mut self, from: &mut R, cx: &mut Context<'_>) -> io::Result<bool>
    where
        R: AsyncRead + Unpin + ?Sized,
    {
        if !self.is_empty() {
            return Ok(false);
        }
        let mut buffer = ReadBuf::new(&mut self.bytes);
        if Pin::new(from).poll_read(cx, &mut buffer)?.is_pending() {
            return Ok(false);
        }
        (self.start, self.end) = (0, buffer.filled().len());
        match self.end {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(true),
        }
    }

    /// Writes as much as `to` accepts. Returns the number of bytes.
    pub(super) fn drain<W>(&mut self, to: &mut W, cx: &mut Context<'_>) -> io::Result<usize>
    where
        W: AsyncWrite + Unpin + ?Sized,
    {
        let before = self.start;
        while !self.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, self.held())? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.start += written,
                Poll::Pending => break,
            }
        }
        Ok(self.start - before)
    }
}

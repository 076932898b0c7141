//! Follows the message boundaries of a session, so that the proxy knows whether it is idle.

/// A message with an impossible length, after which no message boundary is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Splits one direction into messages. It keeps six bytes of a message, whatever its size.
#[derive(Debug, Default)]
struct Frames {
    /// Tag and length.
    head: [u8; 5],
    filled: usize,
    /// Bytes of the body that are not received yet.
    left: usize,
    /// First byte of the body.
    first: Option<u8>,
}

impl Frames {
    /// Removes the rest of a message from `bytes`. Returns its tag and the first byte of its body (zero for an empty body), or
    /// `None` if the message does not end within `bytes`.
    fn next_end(&mut self, bytes: &mut &[u8]) -> Result<Option<(u8, u8)>, Malformed> {
        if self.filled < self.head.len() {
            let missing = &mut self.head[self.filled..];
            let (head, rest) = bytes.split_at(bytes.len().min(missing.len()));
            missing[..head.len()].copy_from_slice(head);
            self.filled += head.len();
            *bytes = rest;
            if self.filled < self.head.len() {
                return Ok(None);
            }
            let [_, length @ ..] = self.head;
            let left = i32::from_be_bytes(length).checked_sub(4);
            let left = left.and_then(|left| usize::try_from(left).ok());
            self.left = left.ok_or(Malformed)?;
            self.first = None;
        }
        let (body, rest) = bytes.split_at(bytes.len().min(self.left));
        self.first = self.first.or(body.first().copied());
        self.left -= body.len();
        *bytes = rest;
        if self.left > 0 {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some((self.head[0], self.first.unwrap_or_default())))
    }

    fn is_between(&self) -> bool {
        self.filled == 0
    }
}

/// The state of a session, from the messages in both directions. In doubt, a session counts as busy.
#[derive(Debug, Default)]
pub(super) struct Follow {
    client: Frames,
    server: Frames,
    /// `ReadyForQuery` messages that the server still has to send.
    owed: u32,
    /// Whether the client sent messages of the extended protocol without a `Sync` after them.
    is_open: bool,
    /// Status of the last `ReadyForQuery`: `I` (idle), `T` (in a transaction), `E` (in a failed one).
    status: u8,
    copy_in: CopyIn,
    /// Whether the last statement was an `Execute` and not a `Query`.
    is_extended: bool,
    /// Whether the client ended a copy before the server started it.
    is_ahead: bool,
}

/// Whether the client copies data in. The server ignores `Sync` during a copy.
#[derive(Debug, Default, PartialEq, Eq)]
enum CopyIn {
    #[default]
    No,
    /// Ends with the server's `ReadyForQuery`.
    Simple,
    /// Ends with the client's `Sync`.
    Extended,
}

impl Follow {
    pub(super) fn client_sent(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while let Some((tag, _)) = self.client.next_end(&mut bytes)? {
            self.client_ends(tag);
        }
        Ok(())
    }

    pub(super) fn server_sent(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while let Some((tag, first)) = self.server.next_end(&mut bytes)? {
            self.server_ends(tag, first);
        }
        Ok(())
    }

    /// Whether no request is pending and no transaction is open.
    pub(super) fn is_idle(&self) -> bool {
        self.owed == 0
            && !self.is_open
            && self.copy_in == CopyIn::No
            && self.status == b'I'
            && self.client.is_between()
            && self.server.is_between()
    }

    /// The reply to a driver's liveness check, if the session is idle and `bytes` are nothing but such a check.
    pub(super) fn answer(&self, bytes: &[u8]) -> Option<&'static [u8]> {
        const SYNC: &[u8] = b"S\0\0\0\x04";
        const EMPTY_QUERY: &[u8] = b"Q\0\0\0\x05\0";
        const READY: &[u8] = b"Z\0\0\0\x05I";
        const EMPTY_AND_READY: &[u8] = b"I\0\0\0\x04Z\0\0\0\x05I";
        match bytes {
            _ if !self.is_idle() => None,
            SYNC => Some(READY),
            EMPTY_QUERY => Some(EMPTY_AND_READY),
            _ => None,
        }
    }

    fn client_ends(&mut self, tag: u8) {
        match tag {
            // Query, function call.
            b'Q' | b'F' => {
                self.owed += 1;
                self.is_extended = false;
                self.is_ahead = false;
            }
            // Sync.
            b'S' => {
                self.owed += 1;
                self.is_open = false;
            }
            // Execute.
            b'E' => {
                self.is_open = true;
                self.is_extended = true;
                self.is_ahead = false;
            }
            // Parse, bind, describe, close, flush.
            b'P' | b'B' | b'D' | b'C' | b'H' => self.is_open = true,
            // Copy done, copy failed.
            b'c' | b'f' => {
                self.is_ahead |= self.copy_in == CopyIn::No;
                self.end_copy();
            }
            _ => {}
        }
    }

    fn server_ends(&mut self, tag: u8, first: u8) {
        match tag {
            // Ready for query.
            b'Z' => {
                self.owed = self.owed.saturating_sub(1);
                self.status = first;
                self.copy_in = CopyIn::No;
                self.is_ahead = false;
            }
            // Copy in. The server has answered all earlier requests, and ignores every `Sync` sent since.
            b'G' if !self.is_ahead => {
                (self.owed, self.copy_in) = match self.is_extended {
                    true => (0, CopyIn::Extended),
                    false => (1, CopyIn::Simple),
                };
            }
            // A replication stream, which is never idle again.
            b'W' => self.is_open = true,
            // An error ends a copy. After a simple one, `ReadyForQuery` follows.
            b'E' if self.copy_in == CopyIn::Extended => self.end_copy(),
            _ => {}
        }
    }

    /// In the extended protocol, the server then waits for `Sync`.
    fn end_copy(&mut self) {
        self.is_open |= self.copy_in == CopyIn::Extended;
        self.copy_in = CopyIn::No;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::client::message;

    fn ready(status: u8) -> Vec<u8> {
        message(b'Z', &[status])
    }

    fn idle() -> Follow {
        let mut follow = Follow::default();
        follow.server_sent(&ready(b'I')).unwrap();
        follow
    }

    /// Runs a script of the client's (`>`) and the server's (`<`) messages, and returns whether the session is idle after it.
    fn run(script: &str) -> bool {
        let mut follow = idle();
        for step in script.split_whitespace() {
            let (side, tag) = step.split_at(1);
            let tag = tag.as_bytes();
            let body: &[u8] = tag.get(1..).unwrap_or_default();
            let bytes = message(tag[0], body);
            match side {
                ">" => follow.client_sent(&bytes).unwrap(),
                _ => follow.server_sent(&bytes).unwrap(),
            }
        }
        follow.is_idle()
    }

    #[test]
    fn a_session_is_idle_without_pending_requests_and_outside_a_transaction() {
        for (script, is_idle) in [
            ("", true),
            (">Qx", false),
            (">Qx <C <ZI", true),
            (">Qx <C <ZT", false),
            (">Qx <E <ZE", false),
            (">Px >B >E", false),
            (">Px >B >E >S", false),
            (">Px >B >E >S <C <ZI", true),
            // Pipelined: the server owes two replies.
            (">E >S >E >S <ZI", false),
            (">E >S >E >S <ZI <ZI", true),
            // A flush without Sync is still open.
            (">P >H <1", false),
            // Copy in, simple and extended, with an ignored Sync.
            (">Qcopy <G", false),
            (">Qcopy <G >d >c <C <ZI", true),
            (">P >B >E >S <1 <2 <G", false),
            (">P >B >E >S <1 <2 <G >d >c", false),
            (">P >B >E >S <1 <2 <G >d >c >S <C <ZI", true),
            (">P >B >E >S <1 <2 <G >d <E", false),
            (">P >B >E >S <1 <2 <G >d <E >S <ZI", true),
            // The client does not wait for the server.
            (">P >B >E >d >c >S", false),
            (">P >B >E >d >c >S <1 <2 <G <C", false),
            (">P >B >E >d >c >S <1 <2 <G <C <ZI", true),
            (">Qcopy >d >c <G <C <ZI", true),
            (">Qcopy >d >c <E <ZI", true),
            // Copy out, notifications.
            (">Qcopy <H <d <c <C <ZI", true),
            ("<A <N <Sx", true),
            // Replication.
            (">Qstart <W <d >d", false),
        ] {
            assert_eq!(run(script), is_idle, "{script}");
        }
    }

    #[test]
    fn only_a_lone_check_on_an_idle_session_gets_a_reply() {
        let sync = message(b'S', b"");
        let empty = message(b'Q', b"\0");
        let follow = idle();
        assert_eq!(follow.answer(&sync), Some(&ready(b'I')[..]));
        let answer = [message(b'I', b""), ready(b'I')].concat();
        assert_eq!(follow.answer(&empty), Some(&answer[..]));
        let none = [
            [sync.clone(), sync.clone()].concat(),
            message(b'Q', b"SELECT 1\0"),
            message(b'X', b""),
            sync[..4].to_vec(),
            Vec::new(),
        ];
        for bytes in none {
            assert_eq!(follow.answer(&bytes), None, "{bytes:?}");
        }
        for before in ["P", "Q", "E"] {
            let mut follow = idle();
            follow
                .client_sent(&message(before.as_bytes()[0], b"\0"))
                .unwrap();
            assert_eq!(follow.answer(&sync), None, "after {before}");
        }
        // The rest of another message that looks like a check.
        let mut follow = idle();
        follow.client_sent(b"d\0\0\0\x09").unwrap();
        assert_eq!(follow.answer(&sync), None);
        assert_eq!(Follow::default().answer(&sync), None);
    }

    #[test]
    fn a_length_below_four_is_malformed() {
        for length in [3_i32, 0, -1, i32::MIN] {
            let mut follow = idle();
            let bytes = [&[b'Q'][..], &length.to_be_bytes()].concat();
            assert_eq!(follow.client_sent(&bytes), Err(Malformed), "{length}");
        }
    }

    proptest! {
        #[test]
        fn messages_split_over_reads_lead_to_the_same_state(
            messages in prop::collection::vec((any::<bool>(), prop::sample::select(&b"QSEPBDCHFcfdZGWEIT123"[..]), prop::collection::vec(any::<u8>(), 0..20)), 0..30),
            size in 1_usize..9,
        ) {
            let mut whole = idle();
            let mut split = idle();
            for (is_client, tag, body) in messages {
                let bytes = message(tag, &body);
                if is_client {
                    whole.client_sent(&bytes).unwrap();
                } else {
                    whole.server_sent(&bytes).unwrap();
                }
                for piece in bytes.chunks(size) {
                    if is_client {
                        split.client_sent(piece).unwrap();
                    } else {
                        split.server_sent(piece).unwrap();
                    }
                }
                prop_assert_eq!(whole.is_idle(), split.is_idle());
                prop_assert_eq!(whole.owed, split.owed);
            }
        }

        #[test]
        fn random_bytes_do_not_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut follow = idle();
            let _ = follow.client_sent(&noise);
            let _ = follow.server_sent(&noise);
            let _ = follow.answer(&noise);
        }
    }
}

//! Follows the message boundaries of a session, so that the proxy knows whether it is idle.

/// A message whose length makes no sense: whatever follows cannot be told apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Splits one direction into messages. Keeps six bytes, whatever the message's size.
#[derive(Debug, Default)]
struct Frames {
    /// Tag, length, first byte of the body.
    head: [u8; 6],
    filled: usize,
    /// Bytes of the body that are still to come.
    left: usize,
}

enum Edge {
    Begin(u8),
    /// With the first byte of the body, zero if it is empty.
    End(u8, u8),
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(Edge)) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            if self.filled < 5 {
                let taken = bytes.len().min(5 - self.filled);
                let (head, rest) = bytes.split_at(taken);
                self.head[self.filled..self.filled + taken].copy_from_slice(head);
                self.filled += taken;
                bytes = rest;
                if self.filled < 5 {
                    return Ok(());
                }
                let [tag, a, b, c, d, _] = self.head;
                let length = i32::from_be_bytes([a, b, c, d]);
                let left = length.checked_sub(4).ok_or(Malformed)?;
                self.left = usize::try_from(left).map_err(|_| Malformed)?;
                self.head[5] = 0;
                on(Edge::Begin(tag));
            } else {
                let (body, rest) = bytes.split_at(bytes.len().min(self.left));
                if let (5, Some(&first)) = (self.filled, body.first()) {
                    self.head[5] = first;
                    self.filled = 6;
                }
                self.left -= body.len();
                bytes = rest;
            }
            if self.left == 0 {
                self.filled = 0;
                on(Edge::End(self.head[0], self.head[5]));
            }
        }
        Ok(())
    }

    fn is_between(&self) -> bool {
        self.filled == 0
    }
}

/// What is known of a session from the messages that passed. In doubt it counts as busy.
#[derive(Debug)]
pub(super) struct Follow {
    client: Frames,
    server: Frames,
    rules: Rules,
}

#[derive(Debug)]
struct Rules {
    /// `ReadyForQuery` messages that the server still has to send.
    owed: u32,
    /// Messages of the extended protocol without a `Sync` behind them.
    is_open: bool,
    /// Of the last `ReadyForQuery`: `I` (idle), `T` (in a transaction), `E` (in a failed one).
    status: u8,
    copy: Copy,
    /// The last statement came as a `Query`, not as an `Execute`.
    is_simple: bool,
    /// The client has ended a copy before the server was ready for it.
    is_ahead: bool,
}

/// The client copies data in. The server then ignores `Sync`.
#[derive(Debug, PartialEq, Eq)]
enum Copy {
    No,
    /// Ends with a `ReadyForQuery` that is owed.
    Simple,
    /// Ends with a `Sync` of the client.
    Extended,
}

impl Default for Follow {
    fn default() -> Self {
        Self {
            client: Frames::default(),
            server: Frames::default(),
            rules: Rules {
                owed: 0,
                is_open: false,
                status: 0,
                copy: Copy::No,
                is_simple: true,
                is_ahead: false,
            },
        }
    }
}

impl Follow {
    pub(super) fn client_sent(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let Self { client, rules, .. } = self;
        client.feed(bytes, |edge| {
            if let Edge::Begin(tag) = edge {
                rules.client_begins(tag);
            }
        })
    }

    pub(super) fn server_sent(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let Self { server, rules, .. } = self;
        server.feed(bytes, |edge| {
            if let Edge::End(tag, first) = edge {
                rules.server_ends(tag, first);
            }
        })
    }

    /// Nothing is under way and no transaction is open.
    pub(super) fn is_idle(&self) -> bool {
        let rules = &self.rules;
        rules.owed == 0
            && !rules.is_open
            && rules.copy == Copy::No
            && rules.status == b'I'
            && self.client.is_between()
            && self.server.is_between()
    }

    /// The answer to a driver's check whether the connection is alive, if that is all that `bytes` are and the
    /// session is idle.
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
}

impl Rules {
    fn client_begins(&mut self, tag: u8) {
        match tag {
            // Query, function call.
            b'Q' | b'F' => {
                self.owed += 1;
                self.is_simple = true;
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
                self.is_simple = false;
                self.is_ahead = false;
            }
            // Parse, bind, describe, close, flush.
            b'P' | b'B' | b'D' | b'C' | b'H' => self.is_open = true,
            // Copy done, copy failed.
            b'c' | b'f' => match self.copy {
                Copy::No => self.is_ahead = true,
                Copy::Simple => self.copy = Copy::No,
                Copy::Extended => {
                    self.copy = Copy::No;
                    self.is_open = true;
                }
            },
            _ => {}
        }
    }

    fn server_ends(&mut self, tag: u8, first: u8) {
        match tag {
            // Ready for query.
            b'Z' => {
                self.owed = self.owed.saturating_sub(1);
                self.status = first;
                self.copy = Copy::No;
                self.is_ahead = false;
            }
            // Copy in. What was asked before is answered, and every `Sync` since then is ignored.
            b'G' if !self.is_ahead => {
                self.owed = u32::from(self.is_simple);
                self.copy = match self.is_simple {
                    true => Copy::Simple,
                    false => Copy::Extended,
                };
            }
            // Copy in both directions: a replication stream, never idle again.
            b'W' => self.is_open = true,
            // An error ends a copy; in the extended protocol the server now waits for `Sync`.
            b'E' if self.copy == Copy::Extended => {
                self.copy = Copy::No;
                self.is_open = true;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag], &length.to_be_bytes()[..], body].concat()
    }

    fn ready(status: u8) -> Vec<u8> {
        message(b'Z', &[status])
    }

    fn idle() -> Follow {
        let mut follow = Follow::default();
        follow.server_sent(&ready(b'I')).unwrap();
        follow
    }

    /// Client's messages with `>`, server's with `<`, then whether the session is idle.
    fn play(script: &str) -> bool {
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
    fn a_session_is_idle_when_everything_is_answered_and_no_transaction_is_open() {
        for (script, is_idle) in [
            ("", true),
            (">Qx", false),
            (">Qx <C <ZI", true),
            (">Qx <C <ZT", false),
            (">Qx <E <ZE", false),
            (">Px >B >E", false),
            (">Px >B >E >S", false),
            (">Px >B >E >S <C <ZI", true),
            // Pipelined: two are owed.
            (">E >S >E >S <ZI", false),
            (">E >S >E >S <ZI <ZI", true),
            // A flush without Sync is still open.
            (">P >H <1", false),
            // Copy in, simple and extended, and the Sync that is ignored.
            (">Qcopy <G", false),
            (">Qcopy <G >d >c <C <ZI", true),
            (">P >B >E >S <1 <2 <G", false),
            (">P >B >E >S <1 <2 <G >d >c", false),
            (">P >B >E >S <1 <2 <G >d >c >S <C <ZI", true),
            (">P >B >E >S <1 <2 <G >d <E", false),
            (">P >B >E >S <1 <2 <G >d <E >S <ZI", true),
            // Sent ahead, without waiting for the server.
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
            assert_eq!(play(script), is_idle, "{script}");
        }
    }

    #[test]
    fn only_a_lone_check_on_an_idle_session_is_answered() {
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
        // The rest of a message that looks like one.
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
        /// However the bytes are cut, the state is the same as with whole messages.
        #[test]
        fn cuts_between_reads_do_not_matter(
            messages in prop::collection::vec((any::<bool>(), prop::sample::select(&b"QSEPBDCHFcfdZGWEIT123"[..]), prop::collection::vec(any::<u8>(), 0..20)), 0..30),
            size in 1_usize..9,
        ) {
            let mut whole = idle();
            let mut cut = idle();
            for (is_client, tag, body) in messages {
                let bytes = message(tag, &body);
                if is_client {
                    whole.client_sent(&bytes).unwrap();
                } else {
                    whole.server_sent(&bytes).unwrap();
                }
                for piece in bytes.chunks(size) {
                    if is_client {
                        cut.client_sent(piece).unwrap();
                    } else {
                        cut.server_sent(piece).unwrap();
                    }
                }
                prop_assert_eq!(whole.is_idle(), cut.is_idle());
                prop_assert_eq!(whole.rules.owed, cut.rules.owed);
            }
        }

        /// Bytes that make no sense neither panic nor let the state grow.
        #[test]
        fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut follow = idle();
            let _ = follow.client_sent(&noise);
            let _ = follow.server_sent(&noise);
            let _ = follow.answer(&noise);
        }
    }
}

//! Who connects.

/// The connecting process, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(unix), allow(dead_code))]
pub(super) enum Peer {
    ThisProcess,
    ThisUser,
    OtherUser,
    /// On TCP.
    Unknown,
}

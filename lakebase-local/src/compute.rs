//! The compute: active, suspended or resuming.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::events::{EventKind, EventLog};

/// How a suspended compute treats connections while it resumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wake {
    /// Keeps them waiting until it is active. The default.
    #[default]
    SlowAccept,
    /// Rejects the login with `57P03` (starting up).
    StartingUp,
    /// Closes the connection.
    Close,
}

/// How a suspend or a restart ends open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// Postgres sends `57P01` first, as in an orderly shutdown. The default.
    #[default]
    Message,
    /// The connection is closed without an error.
    Close,
    /// The connection is reset.
    Reset,
    /// Packets are lost in both directions, as with a failed host. Linux only; elsewhere the session is only
    /// unresponsive.
    Vanish,
}

/// What happens to a new connection.
pub(crate) enum Admission {
    Enter,
    StartingUp,
    Close,
}

#[derive(Debug)]
pub(crate) struct Compute {
    events: Arc<EventLog>,
    state: Mutex<State>,
    awake: watch::Sender<bool>,
    cuts: watch::Sender<Option<Cut>>,
    /// Each session since the last cut holds a receiver.
    sessions: Mutex<watch::Sender<()>>,
}

#[derive(Debug)]
struct State {
    wake_delay: Duration,
    wake: Wake,
    waking: bool,
}

impl Compute {
    pub(crate) fn new(events: Arc<EventLog>) -> Self {
        Self {
            events,
            state: Mutex::new(State {
                wake_delay: Duration::ZERO,
                wake: Wake::default(),
                waking: false,
            }),
            awake: watch::Sender::new(true),
            cuts: watch::Sender::new(None),
            sessions: Mutex::new(watch::Sender::new(())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_awake(&self) -> bool {
        *self.awake.borrow()
    }

    pub(crate) fn suspend(&self, wake_delay: Duration, wake: Wake) {
        *self.lock() = State {
            wake_delay,
            wake,
            waking: false,
        };
        self.awake.send_replace(false);
        self.events.record(EventKind::Suspended);
    }

    /// Ends open sessions without Postgres.
    pub(crate) fn cut(&self, cut: Cut) {
        self.cuts.send_replace(Some(cut));
    }

    /// A session holds the receiver until the end of its connection is on its way to the client.
    pub(crate) fn open_session(&self) -> watch::Receiver<()> {
        let sessions = self.sessions.lock();
        sessions.unwrap_or_else(PoisonError::into_inner).subscribe()
    }

    /// Resolves when all sessions that are open now have ended.
    pub(crate) fn sessions_ended(&self) -> impl Future<Output = ()> + use<> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let open = std::mem::replace(&mut *sessions, watch::Sender::new(()));
        async move { open.closed().await }
    }

    /// Changes when the session that holds it must end.
    pub(crate) fn cut_signal(&self) -> watch::Receiver<Option<Cut>> {
        let mut signal = self.cuts.subscribe();
        signal.mark_unchanged();
        signal
    }

    /// Admits a new connection. Resumes the compute if it is suspended.
    pub(crate) async fn admit(self: &Arc<Self>) -> Admission {
        if self.is_awake() {
            return Admission::Enter;
        }
        let wake = self.start_waking();
        match wake {
            Wake::StartingUp => Admission::StartingUp,
            Wake::Close => Admission::Close,
            Wake::SlowAccept => {
                let mut awake = self.awake.subscribe();
                match awake.wait_for(|awake| *awake).await {
                    Ok(_) => Admission::Enter,
                    Err(_) => Admission::Close,
                }
            }
        }
    }

    fn start_waking(self: &Arc<Self>) -> Wake {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.waking, true) {
            let delay = state.wake_delay;
            let compute = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                compute.lock().waking = false;
                compute.events.record(EventKind::Awake);
                compute.awake.send_replace(true);
            });
        }
        state.wake
    }
}

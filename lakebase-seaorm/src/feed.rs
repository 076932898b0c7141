//! Keeps the pool's password current: sqlx has no hook before a connect, but it takes new options
//! for future connections at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use lakebase_core::{
    Credential, CredentialUpdates, Lakebase, Login, LoginFailure, Target, clean_text,
};
use sea_orm::{ConnAcquireErr, DbErr};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgPool};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::error::{is_login_failure, is_transient, sort, to_db_err};
use crate::liveness::{self, Heard};
use crate::options::with_login;

/// How often the feeding task looks by itself: the task that renews credentials may have died with
/// its runtime, and a machine may have been suspended.
const LOOK: Duration = Duration::from_secs(30);
/// How long one look at the cause of a timeout may take.
const DIAGNOSIS_LIMIT: Duration = Duration::from_secs(2);
/// No socket is there: a login with these options fails before anything is sent.
const NOWHERE: &str = "/nonexistent/lakebase-holds-no-valid-token";

/// The pool and what feeds it. Whoever can use the pool through SeaORM holds one, so the task ends
/// when nobody can any more.
pub(crate) struct Feed {
    lakebase: Lakebase,
    pool: PgPool,
    target: Arc<Target>,
    base: PgConnectOptions,
    /// What the pool logs in with; `None` while it is disarmed.
    fed: RwLock<Option<Credential>>,
    /// Counts recoveries, so that tasks that failed together recover once.
    recoveries: AtomicU64,
    recovering: Mutex<()>,
    heard: Heard,
    sweeping: Mutex<()>,
    task: RwLock<Option<AbortHandle>>,
}

impl Feed {
    /// Starts to feed `pool`, which was made with `login`.
    pub(crate) fn start(
        lakebase: &Lakebase,
        pool: PgPool,
        base: PgConnectOptions,
        login: Login,
    ) -> Arc<Self> {
        let feed = Arc::new(Self {
            lakebase: lakebase.clone(),
            pool,
            base,
            target: login.target,
            fed: RwLock::new(Some(login.credential)),
            recoveries: AtomicU64::new(0),
            recovering: Mutex::default(),
            heard: Heard::now(),
            sweeping: Mutex::default(),
            task: RwLock::default(),
        });
        let task = tokio::spawn(follow(Arc::downgrade(&feed), lakebase.credential_updates()));
        *feed.task.write().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        feed
    }

    pub(crate) fn lakebase(&self) -> &Lakebase {
        &self.lakebase
    }

    /// To be taken before an operation and given to [`recover`](Self::recover) if it fails.
    pub(crate) fn epoch(&self) -> u64 {
        self.recoveries.load(Ordering::Acquire)
    }

    /// Longest time an operation may spend before its statement is sent.
    pub(crate) fn limit(&self) -> Duration {
        self.pool.options().get_acquire_timeout()
    }

    /// Gives the pool the current credential unless it has it. An atomic read when it has.
    ///
    /// If the pool rested, or lost a connection, its idle ones are looked at first.
    ///
    /// Waits only for that, or if nothing valid is held and no idle connection could serve instead.
    pub(crate) async fn ensure(&self, epoch: u64) -> Result<(), DbErr> {
        if !self.heard.lately() {
            let _turn = self.sweeping.lock().await;
            if !self.heard.lately() {
                liveness::sweep(&self.pool).await;
                self.heard.note();
            }
        }
        if self.is_current() || self.feed_at_hand() || self.pool.num_idle() > 0 {
            return Ok(());
        }
        self.log_in(epoch).await
    }

    /// How an operation ended.
    pub(crate) fn note<T>(&self, outcome: &Result<T, DbErr>) {
        match outcome {
            Ok(_) => self.heard.note(),
            Err(error) if is_transient(error) => self.heard.forget(),
            Err(_) => {}
        }
    }

    fn is_current(&self) -> bool {
        let fed = self.fed.read().unwrap_or_else(PoisonError::into_inner);
        fed.as_ref()
            .is_some_and(|fed| self.lakebase.is_current(fed))
    }

    /// Feeds what can be had without waiting. If that is nothing valid, the pool is disarmed: it
    /// must not try a token that is known to be dead.
    fn feed_at_hand(&self) -> bool {
        match self.lakebase.credential().now_or_never() {
            Some(Ok(credential)) => {
                self.set(credential);
                true
            }
            _ => {
                self.disarm();
                false
            }
        }
    }

    fn set(&self, credential: Credential) {
        let mut fed = self.fed.write().unwrap_or_else(PoisonError::into_inner);
        // Tasks race here; the newest wins.
        let newest = fed
            .as_ref()
            .is_none_or(|fed| credential.generation() > fed.generation());
        if newest && self.lakebase.is_valid(&credential) {
            let login = Login::new(Arc::clone(&self.target), credential);
            self.pool
                .set_connect_options(with_login(&self.base, &login));
            *fed = Some(login.credential);
        }
    }

    fn disarm(&self) {
        let mut fed = self.fed.write().unwrap_or_else(PoisonError::into_inner);
        if fed.as_ref().is_some_and(|fed| !self.lakebase.is_valid(fed)) {
            self.pool
                .set_connect_options(self.base.clone().socket(NOWHERE));
            *fed = None;
        }
    }

    /// After a failed login: logs in, outside of the pool, until it works, renewing the credential
    /// if that was refused. Then the pool can do so, too. No statement is involved.
    ///
    /// Taking a connection from the pool instead would prove nothing: it might be an idle one. One
    /// task does it for all that failed since `epoch`.
    pub(crate) async fn recover(&self, error: DbErr, epoch: u64) -> Result<(), DbErr> {
        if matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)) {
            return Err(self.diagnose(error).await);
        }
        if !is_login_failure(&error) {
            return Err(error);
        }
        tracing::debug!(
            error = clean_text(&error.to_string()),
            "a login of the pool failed"
        );
        self.log_in(epoch).await
    }

    /// The login loop, for one task in the name of all that need it since `epoch`.
    async fn log_in(&self, epoch: u64) -> Result<(), DbErr> {
        let began = Instant::now();
        let recovery = async {
            let _turn = self.recovering.lock().await;
            if self.epoch() > epoch {
                return Ok(());
            }
            self.lakebase
                .login(|login| async move {
                    self.probe(&login).await?;
                    self.set(login.credential);
                    Ok(())
                })
                .await?;
            self.recoveries.fetch_add(1, Ordering::AcqRel);
            Ok(())
        };
        match timeout(self.limit(), recovery).await {
            Ok(recovered) => recovered.map_err(to_db_err),
            Err(_) => Err(match self.lakebase.last_failure_since(began) {
                Some(cause) => to_db_err(cause),
                None => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
            }),
        }
    }

    /// One login outside of the pool.
    async fn probe(&self, login: &Login) -> Result<(), LoginFailure> {
        let options = with_login(&self.base, login);
        let connection = options.connect().await.map_err(sort)?;
        let _ = connection.close().await;
        Ok(())
    }

    /// sqlx tries "refused" and "too many" again until its time is up, and then says only that. If
    /// the pool had room for another connection, one more look tells what kept it from opening.
    async fn diagnose(&self, error: DbErr) -> DbErr {
        if self.pool.size() >= self.pool.options().get_max_connections() {
            return error;
        }
        let look = async {
            let credential = self.lakebase.credential().await?;
            let login = Login::new(Arc::clone(&self.target), credential);
            let outcome = self.probe(&login).await;
            outcome.map_err(|failure| self.lakebase.describe_failure(failure, &self.target))
        };
        match timeout(DIAGNOSIS_LIMIT, look).await {
            Ok(Err(cause)) => to_db_err(cause),
            _ => error,
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

/// Feeds the pool ahead of expiry, until it is closed or nobody holds it.
async fn follow(feed: Weak<Feed>, mut updates: CredentialUpdates) {
    loop {
        let Some((mut closed, is_eager)) = feed.upgrade().map(|feed| {
            // Also right at the start: a renewal may have landed since the pool was made.
            let is_eager = feed.lakebase.renews_ahead();
            if is_eager && !feed.is_current() {
                feed.feed_at_hand();
            }
            (feed.pool.close_event(), is_eager)
        }) else {
            return;
        };
        tokio::select! {
            alive = updates.changed() => if !alive { return },
            () = &mut closed => return,
            // Lazily nothing happens without a caller.
            () = tokio::time::sleep(LOOK), if is_eager => {}
        }
        // Lazily a renewal that a caller caused is passed on all the same.
        if let Some(feed) = feed.upgrade().filter(|_| !is_eager)
            && let Some(Ok(credential)) = feed.lakebase.credential().now_or_never()
        {
            feed.set(credential);
        }
    }
}

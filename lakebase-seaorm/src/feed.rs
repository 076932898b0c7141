//! Keeps the pool's password current: sqlx has no hook before a connect, but it takes new options
//! for future connections at any time.

use std::sync::{Arc, PoisonError, RwLock, Weak};

use futures_util::FutureExt as _;
use lakebase_core::{Credential, CredentialUpdates, Lakebase, Login, Target};
use sea_orm::DbErr;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgPool};
use tokio::task::AbortHandle;

use crate::error::{is_login_failure, sort, to_db_err};
use crate::options::with_login;

/// The pool and what feeds it. Whoever can use the pool through SeaORM holds one, so the task ends
/// when nobody can any more.
pub(crate) struct Feed {
    lakebase: Lakebase,
    pool: PgPool,
    target: Arc<Target>,
    base: PgConnectOptions,
    fed: RwLock<Credential>,
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
            fed: RwLock::new(login.credential),
            task: RwLock::default(),
        });
        let task = tokio::spawn(follow(Arc::downgrade(&feed), lakebase.credential_updates()));
        *feed.task.write().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        feed
    }

    pub(crate) fn lakebase(&self) -> &Lakebase {
        &self.lakebase
    }

    /// Gives the pool the current credential unless it has it. An atomic read when it has.
    ///
    /// Waits for a mint only if nothing valid is held and no idle connection could serve instead.
    pub(crate) async fn ensure(&self) -> Result<(), DbErr> {
        if self.is_current() {
            return Ok(());
        }
        let credential = match self.lakebase.credential().now_or_never() {
            Some(credential) => credential,
            None if self.pool.num_idle() > 0 => return Ok(()),
            None => self.lakebase.credential().await,
        };
        match credential {
            Ok(credential) => {
                self.set(credential);
                Ok(())
            }
            Err(_) if self.pool.num_idle() > 0 => Ok(()),
            Err(error) => Err(to_db_err(error)),
        }
    }

    fn is_current(&self) -> bool {
        let fed = self.fed.read().unwrap_or_else(PoisonError::into_inner);
        self.lakebase.is_current(&fed)
    }

    fn set(&self, credential: Credential) {
        let mut fed = self.fed.write().unwrap_or_else(PoisonError::into_inner);
        // Tasks race here; the newest wins.
        if credential.generation() > fed.generation() {
            let mut login = Login::new(Arc::clone(&self.target), credential);
            self.pool
                .set_connect_options(with_login(&self.base, &login));
            std::mem::swap(&mut *fed, &mut login.credential);
        }
    }

    /// After a failed login: logs in, outside of the pool, until it works, renewing the credential
    /// if that was refused. Then the pool can do so, too. No statement is involved.
    ///
    /// Taking a connection from the pool instead would prove nothing: it might be an idle one.
    pub(crate) async fn recover(&self, error: DbErr) -> Result<(), DbErr> {
        if !is_login_failure(&error) {
            return Err(error);
        }
        tracing::debug!(%error, "a login of the pool failed");
        self.lakebase
            .login(|login| async move {
                let options = with_login(&self.base, &login);
                let connection = options.connect().await.map_err(sort)?;
                self.set(login.credential);
                let _ = connection.close().await;
                Ok(())
            })
            .await
            .map_err(to_db_err)
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
        let Some(mut closed) = feed.upgrade().map(|feed| feed.pool.close_event()) else {
            return;
        };
        tokio::select! {
            alive = updates.changed() => if !alive { return },
            () = &mut closed => return,
        }
        let Some(feed) = feed.upgrade() else {
            return;
        };
        // Right after a change it is at hand; if not (a failed mint), the next change tells.
        if let Some(Ok(credential)) = feed.lakebase.credential().now_or_never() {
            feed.set(credential);
        }
    }
}

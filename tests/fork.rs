//! After a fork without exec, the child renews tokens itself, because it has no tasks of its parent.
//!
//! Without the test harness, whose threads do not survive a fork.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;

const LIFETIME: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, Default)]
struct Provider {
    mints: Arc<watch::Sender<usize>>,
    hangs: Arc<AtomicBool>,
}

impl CredentialProvider for Provider {
    async fn credential(&self) -> Result<Credential, Error> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.mints.send_modify(|mints| *mints += 1);
        let number = self.mints.borrow().to_string();
        Ok(Credential::new(number, SystemTime::now() + LIFETIME))
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

fn main() {
    let provider = Provider::default();
    let config = Config::builder()
        .host("db.example.com")
        .user("app")
        .credential_provider(provider.clone())
        .build()
        .expect("a configuration");
    let lakebase = Lakebase::new(config).expect("a handle");
    let parents = runtime();
    parents.block_on(async {
        lakebase.credential().await.expect("a credential");
        // The process forks during a renewal.
        provider.hangs.store(true, Ordering::SeqCst);
        // The token has to expire.
        tokio::time::sleep(LIFETIME).await;
        let hanging = timeout(Duration::from_millis(50), lakebase.credential());
        hanging.await.expect_err("the mint hangs");
    });
    // SAFETY: this process has one thread.
    match unsafe { fork() }.expect("a fork") {
        ForkResult::Child => {
            let renewed = runtime().block_on(renews(&provider, &lakebase));
            // Without destructors, because the runtime belongs to the parent.
            std::process::exit(i32::from(!renewed));
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).expect("the child");
            assert_eq!(
                status,
                WaitStatus::Exited(child, 0),
                "the child did not renew"
            );
        }
    }
}

/// Returns whether the child gets a credential and renews it in the background.
async fn renews(provider: &Provider, lakebase: &Lakebase) -> bool {
    provider.hangs.store(false, Ordering::SeqCst);
    let first = timeout(LIMIT, lakebase.credential()).await;
    let mut mints = provider.mints.subscribe();
    let renewed = timeout(LIMIT, mints.changed());
    matches!(first, Ok(Ok(_))) && matches!(renewed.await, Ok(Ok(())))
}

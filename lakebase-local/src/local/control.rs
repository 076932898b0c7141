//! What tests change while it runs: identities, tokens, faults, the compute.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;

use super::LocalLakebase;
use crate::Error;
use crate::branches::Serving;
use crate::compute::{Cut, Wake};
use crate::events::Call;
use crate::faults::{Fault, LoginFault};
use crate::gateway::Gateway;
use crate::postgres::{DATABASE, quote_ident};
use crate::roles::RoleKind;
use crate::vanish;
use crate::workspace::Outage;

/// Runs SQL as superuser in the database of a branch.
pub(super) async fn run_sql(gateway: &Gateway, database: &str, sql: &str) -> Result<(), Error> {
    let admin = gateway.postgres.admin(database, "public").await?;
    admin
        .batch_execute(sql)
        .await
        .map_err(|error| Error::because("the statement failed", error))
}

/// Identities and roles.
impl LocalLakebase {
    /// A further service principal. Returns client id and secret; it has no Postgres role yet.
    pub fn add_service_principal(&self) -> (String, String) {
        let (id, secret) = (
            Uuid::new_v4().to_string(),
            format!("dose{}", Uuid::new_v4().simple()),
        );
        self.issuer.add_service_principal(&id, &secret);
        (id, secret)
    }

    /// A further person, by e-mail. Returns a personal access token; there is no Postgres role yet.
    pub fn add_user(&self, name: &str) -> String {
        let token = format!("dapi{}", Uuid::new_v4().simple());
        self.issuer.add_pat(&token, name);
        token
    }

    /// A group of identities; there is no Postgres role yet.
    pub fn add_group(&self, name: &str, members: &[&str]) {
        let members = members.iter().map(|&member| member.to_owned()).collect();
        self.issuer.add_group(name, members);
    }

    /// An identity token of another issuer, which a federation policy trusts for this identity: a
    /// service principal (then an exchange must name its client id) or a person (then it must not).
    pub fn id_token(&self, identity: &str) -> String {
        self.issuer.id_token(identity, None)
    }

    /// Makes a Postgres role for an identity, as `databricks_create_role` does.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn create_role(&self, identity: &str) -> Result<(), Error> {
        let sql = self.gateway.postgres.create_role_sql(identity);
        self.sql(&sql).await?;
        self.gateway.roles.set(identity, RoleKind::OAuth);
        Ok(())
    }

    /// Makes a group role that its members log in as.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn create_group_role(&self, group: &str, members: &[&str]) -> Result<(), Error> {
        let sql = self.gateway.postgres.create_role_sql(group);
        self.sql(&sql).await?;
        let members = members.iter().map(|&member| member.to_owned()).collect();
        self.gateway.roles.set(group, RoleKind::Group(members));
        Ok(())
    }

    /// Makes a native role with a password.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn create_native_role(&self, name: &str, password: &str) -> Result<(), Error> {
        let sql = self.gateway.postgres.create_native_role_sql(name, password);
        self.sql(&sql).await?;
        self.open_database(DATABASE, name).await?;
        self.gateway.roles.set_password(name, password);
        self.gateway.roles.set(name, RoleKind::Native);
        Ok(())
    }

    /// As for an app's service principal and a project's owner: CONNECT and CREATE on the database.
    /// `public` belongs to the database's owner, and is for others to look at.
    pub(super) async fn open_database(&self, database: &str, role: &str) -> Result<(), Error> {
        let role = quote_ident(role);
        let name = quote_ident(self.gateway.postgres.database(database));
        let sql = format!("GRANT CONNECT, CREATE ON DATABASE {name} TO {role}");
        self.sql_in(database, &sql).await
    }

    /// Switches logins with native passwords on or off for the endpoint.
    pub fn set_native_login(&self, enabled: bool) {
        self.gateway
            .rules
            .native_login
            .store(enabled, Ordering::Relaxed);
    }

    /// Runs SQL as superuser, behind the gateway's back. Unqualified names are those of `public`.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn sql(&self, sql: &str) -> Result<(), Error> {
        self.sql_in(DATABASE, sql).await
    }

    pub(super) async fn sql_in(&self, database: &str, sql: &str) -> Result<(), Error> {
        run_sql(&self.gateway, database, sql).await
    }

    /// A copy of the database as it is now; cheap. Nobody may be connected to the original.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn scratch_database(&self) -> Result<String, Error> {
        let server = &self.gateway.postgres;
        let name = server.copy_name();
        let original = server.database(DATABASE);
        // Not in one batch: that would be a transaction, which cannot create a database.
        self.sql_in(
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE {original}"),
        )
        .await?;
        for role in [&self.client_id, &self.user] {
            self.open_database(&name, role).await?;
        }
        let owner = format!("ALTER DATABASE {name} OWNER TO {}", quote_ident(&self.user));
        self.sql_in("postgres", &owner).await?;
        Ok(name)
    }
}

/// Tokens.
impl LocalLakebase {
    /// Lifetime of database tokens minted from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.issuer.set_token_lifetime(lifetime);
    }

    /// Takes back every database token minted so far, whatever its expiry.
    pub fn revoke_tokens(&self) {
        self.issuer.revoke_all();
    }

    /// The key that database tokens are signed with changes: those minted so far are refused, whatever
    /// their expiry.
    pub fn rotate_signing_key(&self) {
        self.issuer.rotate_signing_key();
    }

    /// Every database token is over now.
    pub fn expire_tokens(&self) {
        self.issuer.expire_all();
    }

    /// Every workspace token is over now.
    pub fn expire_workspace_tokens(&self) {
        self.issuer.expire_workspace_tokens();
    }

    /// Sets the platform's clock ahead of (or, negative, behind) this machine's.
    pub fn set_clock_skew_millis(&self, ahead: i64) {
        self.clock.set_skew(ahead);
    }

    /// SQLSTATE and severity with which logins are refused: the platform documents neither.
    pub fn set_refusal(&self, sqlstate: &str, severity: &str) {
        let mut refusal = self
            .gateway
            .rules
            .refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *refusal = (sqlstate.to_owned(), severity.to_owned());
    }
}

/// The workspace API.
impl LocalLakebase {
    /// Lets a call misbehave until [`heal`](Self::heal).
    pub fn fail(&self, call: Call, fault: Fault) {
        self.faults.set(call, Some(fault));
    }

    /// Lets a call misbehave a number of times.
    pub fn fail_times(&self, call: Call, times: usize, fault: Fault) {
        self.faults.push(call, times, fault);
    }

    /// Ends the misbehaviour of a call.
    pub fn heal(&self, call: Call) {
        self.faults.set(call, None);
    }

    /// Makes the whole API unreachable, or reachable again.
    pub fn set_api_down(&self, down: bool) {
        self.set_outage(down.then_some(Outage::Down));
    }

    /// Puts the whole API out of order, or in order again. Faults of single calls wait until then.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.switch.set(outage, None);
    }
}

/// The compute.
impl LocalLakebase {
    /// Lets the next logins with a token fail, whatever the token.
    pub fn fail_logins(&self, times: usize, fault: LoginFault) {
        self.gateway.rules.login_faults.push(times, fault);
    }

    /// Lets every login with a token fail for this long, whatever the token; `Duration::MAX` means
    /// until [`heal_logins`](Self::heal_logins). With [`LoginFault::fresh_branch`] that is a branch that
    /// was created a moment ago. A second call replaces the first; faults of
    /// [`fail_logins`](Self::fail_logins) come before it.
    pub fn fail_logins_for(&self, duration: Duration, fault: LoginFault) {
        self.gateway.rules.login_faults.set_for(duration, fault);
    }

    /// Ends all faults of logins.
    pub fn heal_logins(&self) {
        self.gateway.rules.login_faults.clear();
    }

    /// Suspends the compute: sessions end, and the next connection wakes it after `wake_delay`.
    ///
    /// # Errors
    ///
    /// If Postgres cannot be told to end the sessions.
    pub async fn suspend(&self, cut: Cut, wake_delay: Duration, wake: Wake) -> Result<(), Error> {
        self.gateway.compute.suspend(wake_delay, wake);
        self.cut_sessions(cut).await
    }

    /// Ends every open session, as a restart does. Returns when what the clients are told is on its
    /// way to them, or after 5 seconds if a client does not read.
    ///
    /// # Errors
    ///
    /// If Postgres cannot be told to end the sessions.
    pub async fn cut_sessions(&self, cut: Cut) -> Result<(), Error> {
        self.gateway.cut_sessions(cut).await
    }

    /// Lets the packets of everybody who connects vanish, or stops that: a host that is gone. Open
    /// sessions are not concerned; for those there is [`Cut::Vanish`].
    ///
    /// # Errors
    ///
    /// Where the system cannot do it: it takes Linux.
    pub fn set_unreachable(&self, unreachable: bool) -> Result<(), Error> {
        let serving = self.branches.production().serving();
        let Some(listener) = serving.and_then(Serving::listener) else {
            return Err(Error::new("the local Lakebase is stopped"));
        };
        vanish::swallow_connects(&listener, unreachable)
            .map_err(|error| Error::because("packets cannot be made to vanish here", error))
    }

    /// Most sessions at a time; beyond it logins get `53300`.
    pub fn set_connection_limit(&self, limit: usize) {
        self.gateway
            .rules
            .connection_limit
            .store(limit, Ordering::Relaxed);
    }
}

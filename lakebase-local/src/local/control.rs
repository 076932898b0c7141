//! Changes while it runs: identities, tokens, faults, the compute.

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
    /// Adds a service principal without a Postgres role. Returns client id and secret.
    pub fn add_service_principal(&self) -> (String, String) {
        let (id, secret) = (
            Uuid::new_v4().to_string(),
            format!("dose{}", Uuid::new_v4().simple()),
        );
        self.issuer.add_service_principal(&id, &secret);
        (id, secret)
    }

    /// Adds a person, by e-mail, without a Postgres role. Returns a personal access token.
    pub fn add_user(&self, name: &str) -> String {
        let token = format!("dapi{}", Uuid::new_v4().simple());
        self.issuer.add_pat(&token, name);
        token
    }

    /// A person's own token, as Databricks Apps forward it in `x-forwarded-access-token`. Minting takes the scope `postgres`.
    pub fn forwarded_token(&self, user: &str, lifetime: Duration, scopes: &[&str]) -> String {
        self.issuer.forwarded_token(user, lifetime, scopes)
    }

    /// Removes a person from the workspace. All of the person's tokens, including those for the database, are rejected from now
    /// on.
    pub fn remove_user(&self, name: &str) {
        self.issuer.remove_user(name);
    }

    /// Adds a group of identities, without a Postgres role.
    pub fn add_group(&self, name: &str, members: &[&str]) {
        let members = members.iter().map(|&member| member.to_owned()).collect();
        self.issuer.add_group(name, members);
    }

    /// Issues an identity token of another issuer, which a federation policy trusts for this identity. The exchange
    /// must contain the client id for a service principal, and no client id for a person.
    pub fn id_token(&self, identity: &str) -> String {
        self.issuer.id_token(identity, None)
    }

    /// Creates a Postgres role for an identity, as `databricks_create_role` does.
    ///
    /// # Errors
    ///
    /// The error of Postgres.
    ///
    /// # Cancel safety
    ///
    /// After cancelling it, the role may exist, but cannot log in.
    pub async fn create_role(&self, identity: &str) -> Result<(), Error> {
        let sql = self.gateway.postgres.create_role_sql(identity);
        self.sql(&sql).await?;
        self.gateway.roles.set(identity, RoleKind::OAuth);
        Ok(())
    }

    /// Creates a role for a group. Its members log in as this role.
    ///
    /// # Errors
    ///
    /// The error of Postgres.
    ///
    /// # Cancel safety
    ///
    /// As [`create_role`](Self::create_role).
    pub async fn create_group_role(&self, group: &str, members: &[&str]) -> Result<(), Error> {
        let sql = self.gateway.postgres.create_role_sql(group);
        self.sql(&sql).await?;
        let members = members.iter().map(|&member| member.to_owned()).collect();
        self.gateway.roles.set(group, RoleKind::Group(members));
        Ok(())
    }

    /// Creates a native role with a password.
    ///
    /// # Errors
    ///
    /// The error of Postgres.
    ///
    /// # Cancel safety
    ///
    /// As [`create_role`](Self::create_role).
    pub async fn create_native_role(&self, name: &str, password: &str) -> Result<(), Error> {
        let sql = self.gateway.postgres.create_native_role_sql(name, password);
        self.sql(&sql).await?;
        self.open_database(DATABASE, name).await?;
        self.gateway.roles.set_password(name, password);
        self.gateway.roles.set(name, RoleKind::Native);
        Ok(())
    }

    /// Grants CONNECT and CREATE on the database, as an app's service principal has them. `public` belongs to the
    /// database's owner; other roles have USAGE only.
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

    /// Runs SQL as superuser, without the gateway. The search path is `public`.
    ///
    /// # Errors
    ///
    /// The error of Postgres.
    ///
    /// # Cancel safety
    ///
    /// A cancelled statement may still run to its end.
    pub async fn sql(&self, sql: &str) -> Result<(), Error> {
        self.sql_in(DATABASE, sql).await
    }

    pub(super) async fn sql_in(&self, database: &str, sql: &str) -> Result<(), Error> {
        run_sql(&self.gateway, database, sql).await
    }

    /// Copies the database and returns the name of the copy. No session may be open on the original.
    ///
    /// # Errors
    ///
    /// The error of Postgres.
    ///
    /// # Cancel safety
    ///
    /// After cancelling it, a copy without a known name may exist until the end.
    pub async fn scratch_database(&self) -> Result<String, Error> {
        let server = &self.gateway.postgres;
        let name = server.copy_name();
        let original = server.database(DATABASE);
        // One batch is one transaction, which cannot create a database.
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
    /// Sets the lifetime of database tokens minted from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.issuer.set_token_lifetime(lifetime);
    }

    /// Revokes every database token minted so far.
    pub fn revoke_tokens(&self) {
        self.issuer.revoke_all();
    }

    /// Changes the key that signs database tokens. All tokens minted so far are rejected.
    pub fn rotate_signing_key(&self) {
        self.issuer.rotate_signing_key();
    }

    /// Expires every database token now.
    pub fn expire_tokens(&self) {
        self.issuer.expire_all();
    }

    /// Expires every workspace token now.
    pub fn expire_workspace_tokens(&self) {
        self.issuer.expire_workspace_tokens();
    }

    /// Sets the platform's clock ahead of this machine's; a negative value sets it behind.
    pub fn set_clock_skew_millis(&self, ahead: i64) {
        self.clock.set_skew(ahead);
    }

    /// Sets SQLSTATE and severity of rejected logins. The platform documents neither.
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
    /// Applies a fault to a call until [`heal`](Self::heal).
    pub fn fail(&self, call: Call, fault: Fault) {
        self.faults.set(call, fault);
    }

    /// Applies a fault to the next `times` calls.
    pub fn fail_times(&self, call: Call, times: usize, fault: Fault) {
        self.faults.push(call, times, fault);
    }

    /// Removes the faults of a call.
    pub fn heal(&self, call: Call) {
        self.faults.clear(call);
    }

    /// Makes the whole API unreachable, or reachable again.
    pub fn set_api_down(&self, down: bool) {
        self.set_outage(down.then_some(Outage::Down));
    }

    /// Starts or ends an outage of the whole API. Faults of single calls apply after the outage.
    pub fn set_outage(&self, outage: Option<Outage>) {
        self.switch.set(outage, None);
    }
}

/// The compute.
impl LocalLakebase {
    /// Lets the next `times` logins with a token fail, even with a valid token.
    pub fn fail_logins(&self, times: usize, fault: LoginFault) {
        self.gateway.rules.login_faults.push(times, fault);
    }

    /// Lets every login with a token fail for this long; `Duration::MAX` means until
    /// [`heal_logins`](Self::heal_logins). [`LoginFault::fresh_branch`] imitates a new branch. A second call
    /// replaces the first; faults of [`fail_logins`](Self::fail_logins) come first.
    pub fn fail_logins_for(&self, duration: Duration, fault: LoginFault) {
        self.gateway.rules.login_faults.set_for(duration, fault);
    }

    /// Removes all faults of logins.
    pub fn heal_logins(&self) {
        self.gateway.rules.login_faults.clear();
    }

    /// Suspends the compute. Sessions end, and the next connection resumes it, which takes `wake_delay`.
    ///
    /// # Errors
    ///
    /// If Postgres fails to end the sessions.
    ///
    /// # Cancel safety
    ///
    /// After cancelling it, the compute is suspended, and some sessions may not end.
    pub async fn suspend(&self, cut: Cut, wake_delay: Duration, wake: Wake) -> Result<(), Error> {
        self.gateway.compute.suspend(wake_delay, wake);
        self.cut_sessions(cut).await
    }

    /// Ends every open session, as a restart does. Returns when the last message to each client has been sent, or
    /// after 5 seconds if a client does not read.
    ///
    /// # Errors
    ///
    /// If Postgres fails to end the sessions.
    ///
    /// # Cancel safety
    ///
    /// After cancelling it, some sessions may not end.
    pub async fn cut_sessions(&self, cut: Cut) -> Result<(), Error> {
        self.gateway.cut_sessions(cut).await
    }

    /// Drops the packets of new connections, as a failed host does, or accepts them again. Open sessions continue;
    /// [`Cut::Vanish`] is for them.
    ///
    /// # Errors
    ///
    /// On every system except Linux.
    pub fn set_unreachable(&self, unreachable: bool) -> Result<(), Error> {
        let serving = self.branches.production().serving();
        let Some(listener) = serving.and_then(Serving::listener) else {
            return Err(Error::new("the local Lakebase is stopped"));
        };
        vanish::swallow_connects(&listener, unreachable)
            .map_err(|error| Error::because("packets cannot be made to vanish here", error))
    }

    /// Sets the maximum number of sessions. Logins beyond it fail with `53300`.
    pub fn set_connection_limit(&self, limit: usize) {
        self.gateway
            .rules
            .connection_limit
            .store(limit, Ordering::Relaxed);
    }
}

//! Identities, and the tokens issued to them. The workspace API and the gateway use it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use uuid::Uuid;

use crate::clock::PlatformClock;

/// Bytes of the signature part. Tokens have the length of real ones.
const SIGNATURE_BYTES: usize = 256;

#[derive(Debug)]
pub(crate) struct Issuer {
    clock: Arc<PlatformClock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    secrets: HashMap<String, String>,
    pats: HashMap<String, String>,
    passwords: HashMap<String, String>,
    groups: HashMap<String, HashSet<String>>,
    /// Number of changes to the identities.
    identities_version: u64,
    /// Identity tokens of other issuers that a federation policy trusts.
    id_tokens: HashMap<String, IdToken>,
    entra_tokens: HashMap<String, EntraToken>,
    workspace_tokens: HashMap<String, Issued>,
    /// Of forwarded tokens.
    scopes: HashMap<String, HashSet<String>>,
    database_tokens: HashMap<String, Issued>,
    /// Responses by request id: a repeated credential call gets the same token.
    by_request: HashMap<String, (String, SystemTime)>,
    minted: u64,
    token_lifetime: Duration,
    workspace_token_lifetime: Duration,
    /// Tokens up to this serial were revoked.
    revoked_up_to: u64,
    /// Tokens up to this serial were signed with a key that is no longer trusted.
    outdated_up_to: u64,
}

#[derive(Clone, Debug)]
struct Issued {
    /// 0 for a workspace token.
    serial: u64,
    identity: String,
    expires_at: SystemTime,
}

#[derive(Clone, Debug)]
struct IdToken {
    identity: String,
    /// The audience, if the issuer got one.
    audience: Option<String>,
}

#[derive(Clone, Debug)]
struct EntraToken {
    identity: String,
    resource: String,
    expires_at: SystemTime,
}

/// A freshly minted database token.
pub(crate) struct MintedToken {
    pub(crate) serial: u64,
    pub(crate) token: String,
    pub(crate) issued_at: SystemTime,
    pub(crate) expires_at: SystemTime,
}

/// The result of checking a password.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenState {
    /// A valid token of this identity.
    Valid { serial: u64, identity: String },
    /// An expired token.
    Expired { serial: u64 },
    /// A revoked token.
    Revoked { serial: u64 },
    /// A token signed with an old key.
    Undecodable { serial: u64 },
    /// A JWT, but not a database token of this workspace.
    Foreign,
    /// Not a JWT.
    Garbage,
}

impl Issuer {
    pub(crate) fn new(
        clock: Arc<PlatformClock>,
        token_lifetime: Duration,
        workspace_token_lifetime: Duration,
    ) -> Self {
        Self {
            clock,
            state: Mutex::new(State {
                token_lifetime,
                workspace_token_lifetime,
                ..State::default()
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_service_principal(&self, client_id: &str, secret: &str) {
        let mut state = self.lock();
        state
            .secrets
            .insert(client_id.to_owned(), secret.to_owned());
        state.identities_version += 1;
    }

    pub(crate) fn add_pat(&self, token: &str, user: &str) {
        let mut state = self.lock();
        state.pats.insert(token.to_owned(), user.to_owned());
        state.identities_version += 1;
    }

    pub(crate) fn add_group(&self, group: &str, members: HashSet<String>) {
        let mut state = self.lock();
        state.groups.insert(group.to_owned(), members);
        state.identities_version += 1;
    }

    pub(crate) fn members(&self, group: &str) -> HashSet<String> {
        self.lock().groups.get(group).cloned().unwrap_or_default()
    }

    /// Number of changes to [`identities`](Self::identities).
    pub(crate) fn identities_version(&self) -> u64 {
        self.lock().identities_version
    }

    /// All identities, with the kind as `databricks_create_role` names it.
    pub(crate) fn identities(&self) -> Vec<(String, &'static str)> {
        let state = self.lock();
        let principals = state.secrets.keys().map(|id| (id, "SERVICE_PRINCIPAL"));
        let users = state.pats.values().map(|user| (user, "USER"));
        let groups = state.groups.keys().map(|group| (group, "GROUP"));
        let all = principals.chain(users).chain(groups);
        all.map(|(name, kind)| (name.clone(), kind)).collect()
    }

    pub(crate) fn add_password(&self, user: &str, password: &str) {
        let mut state = self.lock();
        state.passwords.insert(user.to_owned(), password.to_owned());
    }

    /// Checks user name and password.
    pub(crate) fn knows_password(&self, user: &str, password: &str) -> bool {
        self.lock()
            .passwords
            .get(user)
            .is_some_and(|known| known == password)
    }

    /// Issues an identity token of another issuer, trusted for one identity.
    pub(crate) fn id_token(&self, identity: &str, audience: Option<&str>) -> String {
        let mut state = self.lock();
        let expires_at = self.clock.now() + state.workspace_token_lifetime;
        let token = token("federation", identity, expires_at);
        let known = IdToken {
            identity: identity.to_owned(),
            audience: audience.map(str::to_owned),
        };
        state.id_tokens.insert(token.clone(), known);
        token
    }

    /// Exchanges an identity token. The policy of a service principal requires its client id; a policy of
    /// the account requires that there is no client id.
    pub(crate) fn exchange(
        &self,
        id_token: &str,
        client_id: Option<&str>,
        audience: &str,
    ) -> Option<(String, String, Duration)> {
        let known = self.lock().id_tokens.get(id_token).cloned()?;
        let is_principal = self.is_service_principal(&known.identity);
        let fits = match client_id {
            Some(id) => is_principal && id == known.identity,
            None => !is_principal,
        };
        if !fits || known.audience.is_some_and(|wanted| wanted != audience) {
            return None;
        }
        let (token, lifetime) = self.workspace_token(&known.identity);
        Some((known.identity, token, lifetime))
    }

    /// Issues a token of Entra ID for one resource.
    pub(crate) fn entra_token(&self, identity: &str, resource: &str) -> (String, Duration) {
        let mut state = self.lock();
        let lifetime = state.workspace_token_lifetime;
        let expires_at = self.clock.now() + lifetime;
        let token = token(resource, identity, expires_at);
        let known = EntraToken {
            identity: identity.to_owned(),
            resource: resource.to_owned(),
            expires_at,
        };
        state.entra_tokens.insert(token.clone(), known);
        (token, lifetime)
    }

    /// Returns the identity of a token of Entra ID, if the token is for that resource.
    pub(crate) fn entra_identity(&self, token: &str, resource: &str) -> Option<String> {
        let state = self.lock();
        let known = state.entra_tokens.get(token)?;
        let is_good = known.resource == resource && self.clock.now() < known.expires_at;
        is_good.then(|| known.identity.clone())
    }

    pub(crate) fn is_service_principal(&self, identity: &str) -> bool {
        self.lock().secrets.contains_key(identity)
    }

    /// Checks the secret of a service principal.
    pub(crate) fn knows_secret(&self, client_id: &str, secret: &str) -> bool {
        self.lock()
            .secrets
            .get(client_id)
            .is_some_and(|known| known == secret)
    }

    pub(crate) fn set_token_lifetime(&self, lifetime: Duration) {
        self.lock().token_lifetime = lifetime;
    }

    /// OAuth client credentials. Returns the token and its lifetime.
    pub(crate) fn sign_in(&self, client_id: &str, secret: &str) -> Option<(String, Duration)> {
        self.knows_secret(client_id, secret)
            .then(|| self.workspace_token(client_id))
    }

    /// Issues a token for the workspace API. Returns it and its lifetime.
    pub(crate) fn workspace_token(&self, identity: &str) -> (String, Duration) {
        let mut state = self.lock();
        let lifetime = state.workspace_token_lifetime;
        let expires_at = self.clock.now() + lifetime;
        (state.issue("workspace", identity, expires_at), lifetime)
    }

    /// A user's own token, as a proxy in front of an application forwards it.
    pub(crate) fn forwarded_token(
        &self,
        user: &str,
        lifetime: Duration,
        scopes: &[&str],
    ) -> String {
        let mut state = self.lock();
        let token = state.issue("forwarded", user, self.clock.now() + lifetime);
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        state.scopes.insert(token.clone(), scopes);
        token
    }

    /// Returns whether a bearer token is valid for this scope. Only forwarded tokens have scopes.
    pub(crate) fn has_scope(&self, bearer: &str, scope: &str) -> bool {
        let state = self.lock();
        let scopes = state.scopes.get(bearer);
        scopes.is_none_or(|scopes| scopes.contains(scope))
    }

    /// Ends all tokens of a user.
    pub(crate) fn remove_user(&self, user: &str) {
        let mut state = self.lock();
        state.pats.retain(|_, owner| owner != user);
        state
            .workspace_tokens
            .retain(|_, issued| issued.identity != user);
        for issued in state.database_tokens.values_mut() {
            if issued.identity == user {
                issued.expires_at = SystemTime::UNIX_EPOCH;
            }
        }
    }

    /// Returns the identity of a bearer token of the workspace API.
    pub(crate) fn identity_of(&self, bearer: &str) -> Option<String> {
        let state = self.lock();
        if let Some(user) = state.pats.get(bearer) {
            return Some(user.clone());
        }
        let issued = state.workspace_tokens.get(bearer)?;
        (self.clock.now() < issued.expires_at).then(|| issued.identity.clone())
    }

    pub(crate) fn mint(&self, identity: &str, ttl: Option<Duration>) -> MintedToken {
        let mut state = self.lock();
        let issued_at = self.clock.now();
        let lifetime = ttl.unwrap_or(state.token_lifetime);
        let expires_at = issued_at + lifetime;
        let token = token("database", identity, expires_at);
        state.minted += 1;
        let serial = state.minted;
        state.database_tokens.insert(
            token.clone(),
            Issued {
                serial,
                identity: identity.to_owned(),
                expires_at,
            },
        );
        MintedToken {
            serial,
            token,
            issued_at,
            expires_at,
        }
    }

    /// Returns the response to an earlier call with this request id.
    pub(crate) fn answered(&self, request_id: &str) -> Option<(String, SystemTime)> {
        self.lock().by_request.get(request_id).cloned()
    }

    pub(crate) fn remember(&self, request_id: &str, token: &str, expires_at: SystemTime) {
        let answer = (token.to_owned(), expires_at);
        self.lock().by_request.insert(request_id.to_owned(), answer);
    }

    pub(crate) fn check_token(&self, password: &str) -> TokenState {
        let state = self.lock();
        match state.database_tokens.get(password) {
            Some(issued) if issued.serial <= state.revoked_up_to => TokenState::Revoked {
                serial: issued.serial,
            },
            Some(issued) if issued.serial <= state.outdated_up_to => TokenState::Undecodable {
                serial: issued.serial,
            },
            Some(issued) if self.clock.now() >= issued.expires_at => TokenState::Expired {
                serial: issued.serial,
            },
            Some(issued) => TokenState::Valid {
                serial: issued.serial,
                identity: issued.identity.clone(),
            },
            None if password.split('.').count() == 3 => TokenState::Foreign,
            None => TokenState::Garbage,
        }
    }

    /// Revokes every database token issued so far.
    pub(crate) fn revoke_all(&self) {
        let mut state = self.lock();
        state.revoked_up_to = state.minted;
    }

    /// Makes all earlier signatures invalid.
    pub(crate) fn rotate_signing_key(&self) {
        let mut state = self.lock();
        state.outdated_up_to = state.minted;
    }

    /// Expires every database token now.
    pub(crate) fn expire_all(&self) {
        let now = self.clock.now();
        for issued in self.lock().database_tokens.values_mut() {
            issued.expires_at = issued.expires_at.min(now);
        }
    }

    /// Expires every workspace token now.
    pub(crate) fn expire_workspace_tokens(&self) {
        let now = self.clock.now();
        let mut state = self.lock();
        for issued in state.workspace_tokens.values_mut() {
            issued.expires_at = issued.expires_at.min(now);
        }
        for known in state.entra_tokens.values_mut() {
            known.expires_at = known.expires_at.min(now);
        }
    }

    /// All secrets and tokens, which must not appear in any output.
    pub(crate) fn all_secrets(&self) -> Vec<String> {
        let state = self.lock();
        let secrets = state.secrets.values().chain(state.pats.keys());
        let tokens = state
            .workspace_tokens
            .keys()
            .chain(state.database_tokens.keys())
            .chain(state.id_tokens.keys())
            .chain(state.entra_tokens.keys());
        let passwords = state.passwords.values();
        secrets.chain(passwords).chain(tokens).cloned().collect()
    }
}

impl State {
    /// Issues a token for the workspace API.
    fn issue(&mut self, audience: &str, identity: &str, expires_at: SystemTime) -> String {
        let token = token(audience, identity, expires_at);
        let issued = Issued {
            serial: 0,
            identity: identity.to_owned(),
            expires_at,
        };
        self.workspace_tokens.insert(token.clone(), issued);
        token
    }
}

/// A token in the format of a JWT, with a random signature.
fn token(audience: &str, subject: &str, expires_at: SystemTime) -> String {
    let expiry = expires_at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let id = Uuid::new_v4().to_string();
    let header = json!({ "kid": "lakebase-local", "typ": "JWT", "alg": "RS256" });
    let claims = json!({
        "iss": "lakebase-local", "aud": audience, "sub": subject, "exp": expiry.as_secs(), "jti": id,
    });
    let signature: Vec<u8> = std::iter::repeat_with(|| *Uuid::new_v4().as_bytes())
        .take(SIGNATURE_BYTES / 16)
        .flatten()
        .collect();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    [
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes()),
        encode(&signature),
    ]
    .join(".")
}

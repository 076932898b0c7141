//! Who exists, what was issued to them and until when it is good. Asked by the workspace API and
//! by the gateway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use uuid::Uuid;

use crate::clock::PlatformClock;

/// Bytes of the signature part, so that tokens have the length of real ones.
const SIGNATURE_BYTES: usize = 256;

#[derive(Debug)]
pub(crate) struct Issuer {
    clock: Arc<PlatformClock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    secrets: HashMap<String, String>,
    pats: HashMap<String, String>,
    workspace_tokens: HashMap<String, Issued>,
    database_tokens: HashMap<String, Issued>,
    minted: u64,
    token_lifetime: Duration,
    workspace_token_lifetime: Duration,
    /// Tokens up to this serial were revoked.
    revoked_up_to: u64,
}

#[derive(Clone, Debug)]
struct Issued {
    serial: u64,
    identity: String,
    expires_at: SystemTime,
}

/// A freshly minted database token.
pub(crate) struct MintedToken {
    pub(crate) serial: u64,
    pub(crate) token: String,
    pub(crate) issued_at: SystemTime,
    pub(crate) expires_at: SystemTime,
}

/// What the gateway thinks of a password.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenState {
    /// Good, for this identity.
    Valid { serial: u64, identity: String },
    /// Was good once.
    Expired { serial: u64 },
    /// Taken back.
    Revoked { serial: u64 },
    /// Looks like a token, but not one of ours for databases.
    Foreign,
    /// Not a token at all.
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
                secrets: HashMap::new(),
                pats: HashMap::new(),
                workspace_tokens: HashMap::new(),
                database_tokens: HashMap::new(),
                minted: 0,
                token_lifetime,
                workspace_token_lifetime,
                revoked_up_to: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_service_principal(&self, client_id: &str, secret: &str) {
        self.lock()
            .secrets
            .insert(client_id.to_owned(), secret.to_owned());
    }

    pub(crate) fn add_pat(&self, token: &str, user: &str) {
        self.lock().pats.insert(token.to_owned(), user.to_owned());
    }

    pub(crate) fn set_token_lifetime(&self, lifetime: Duration) {
        self.lock().token_lifetime = lifetime;
    }

    /// OAuth client credentials. Returns the token and its lifetime.
    pub(crate) fn sign_in(&self, client_id: &str, secret: &str) -> Option<(String, Duration)> {
        let mut state = self.lock();
        if state
            .secrets
            .get(client_id)
            .is_none_or(|known| known != secret)
        {
            return None;
        }
        let lifetime = state.workspace_token_lifetime;
        let expires_at = self.clock.now() + lifetime;
        let token = token("workspace", client_id, expires_at);
        state.workspace_tokens.insert(
            token.clone(),
            Issued {
                serial: 0,
                identity: client_id.to_owned(),
                expires_at,
            },
        );
        Some((token, lifetime))
    }

    /// The identity behind a bearer token of the workspace API.
    pub(crate) fn who_is(&self, bearer: &str) -> Option<String> {
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

    pub(crate) fn judge(&self, password: &str) -> TokenState {
        let state = self.lock();
        match state.database_tokens.get(password) {
            Some(issued) if issued.serial <= state.revoked_up_to => TokenState::Revoked {
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

    /// The platform takes back every database token it has issued.
    pub(crate) fn revoke_all(&self) {
        let mut state = self.lock();
        state.revoked_up_to = state.minted;
    }

    /// Every database token is over from now on.
    pub(crate) fn expire_all(&self) {
        let now = self.clock.now();
        for issued in self.lock().database_tokens.values_mut() {
            issued.expires_at = issued.expires_at.min(now);
        }
    }

    /// Every workspace token is over from now on.
    pub(crate) fn expire_workspace_tokens(&self) {
        let now = self.clock.now();
        for issued in self.lock().workspace_tokens.values_mut() {
            issued.expires_at = issued.expires_at.min(now);
        }
    }

    /// Everything that must never be seen in an output: secrets and tokens alike.
    pub(crate) fn all_secrets(&self) -> Vec<String> {
        let state = self.lock();
        let secrets = state.secrets.values().chain(state.pats.keys());
        let tokens = state
            .workspace_tokens
            .keys()
            .chain(state.database_tokens.keys());
        secrets.chain(tokens).cloned().collect()
    }
}

/// A token in the shape of a JWT; nobody decodes it, and the signature is noise.
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

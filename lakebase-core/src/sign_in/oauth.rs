//! Databricks' own OAuth: asks the token endpoint, reads what it answers.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::token::{Token, is_header_safe};
use super::{Settings, Site};
use crate::credential::refresh::Validity;
use crate::error::Error;
use crate::error::Kind;
use crate::http::Reply;
use crate::settings::attributes::Attribute;

/// One form for the token endpoint.
pub(super) struct Request {
    grant_type: &'static str,
    scope: String,
    group: Option<String>,
    authorization_details: Option<String>,
}

impl Request {
    pub(super) fn new(grant_type: &'static str, settings: &Settings) -> Self {
        Self {
            grant_type,
            scope: settings.scopes(),
            group: settings.owned(Attribute::GroupId),
            authorization_details: settings.owned(Attribute::AuthorizationDetails),
        }
    }

    /// Sends it, with client credentials in the header or fields of its own in the form.
    pub(super) async fn send(
        &self,
        site: &Site,
        basic: Option<(&str, &SecretString)>,
        fields: &[(&str, &str)],
        advice: &str,
    ) -> Result<Token, Error> {
        let mut form = vec![
            ("grant_type", self.grant_type),
            ("scope", self.scope.as_str()),
        ];
        if let Some(group) = &self.group {
            form.push(("assume_group", group));
        }
        if let Some(details) = &self.authorization_details {
            form.push(("authorization_details", details));
        }
        form.extend(fields.iter().copied());
        let mut secrets: Vec<&str> = fields
            .iter()
            .filter(|(name, _)| *name == "subject_token")
            .map(|(_, value)| *value)
            .collect();
        let basic = basic.map(|(id, secret)| (id, secret.expose_secret()));
        // A debug page may repeat the header as it was sent.
        let header = basic.map(|(id, secret)| super::token::basic(id, secret));
        secrets.extend(basic.map(|(_, secret)| secret));
        secrets.extend(header.as_deref());
        let post = async |endpoint: Url| {
            let mut request = site.http.post(endpoint).await?.form(&form);
            if let Some((id, secret)) = basic {
                request = request.basic_auth(id, Some(secret));
            }
            site.http.send(request, &secrets).await
        };
        let mut reply = post(site.token_endpoint().await?).await?;
        if reply.status == 404 && site.forget_assumed_endpoint() {
            reply = post(site.token_endpoint().await?).await?;
        }
        if !reply.is_success() {
            let error = reply.failure("the workspace refused the sign-in");
            return Err(match reply.status {
                400 | 401 | 403 => error.with_hint(advice),
                _ => error,
            });
        }
        read(&reply)
    }
}

/// A token reply of RFC 6749.
pub(super) fn read(reply: &Reply) -> Result<Token, Error> {
    let answer = reply.json()?;
    let (secret, kind) = secret(reply, &answer)?;
    let lifetime = number(answer.get("expires_in"))
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| unusable(reply, "expires_in", "is not a positive number of seconds"))?;
    let validity = Validity::starting(reply.sent, lifetime);
    Ok(Token::new(kind, secret, Some(validity)))
}

/// `access_token` and `token_type`.
pub(super) fn secret<'a>(reply: &Reply, answer: &'a Value) -> Result<(&'a str, &'a str), Error> {
    let secret = match answer.get("access_token").and_then(Value::as_str) {
        Some(token) if is_header_safe(token) => token,
        Some(_) => return Err(unusable(reply, "access_token", "is not a token")),
        None => return Err(unusable(reply, "access_token", "is missing")),
    };
    match answer.get("token_type").and_then(Value::as_str) {
        None | Some("") => Ok((secret, "Bearer")),
        Some(kind) if is_header_safe(kind) => Ok((secret, kind)),
        Some(_) => Err(unusable(reply, "token_type", "is not a word")),
    }
}

/// A number, which some servers send as a string.
pub(super) fn number(value: Option<&Value>) -> Option<f64> {
    let value = value?;
    value
        .as_f64()
        .or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))
}

pub(super) fn unusable(reply: &Reply, field: &str, what: &str) -> Error {
    reply.error(
        Kind::Platform,
        format!("the sign-in reply is unusable: `{field}` {what}"),
    )
}

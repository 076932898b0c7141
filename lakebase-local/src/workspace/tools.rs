//! Stand-ins of tools that authenticate for programs: the Databricks CLI, the Azure CLI, an editor.
//!
//! The scripts send their arguments to the handlers in this file and print the response.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Shared;
use super::azure::{APPLICATION, TENANT, epoch};
use super::oidc::header;
use crate::reply::{rfc3339, status};

/// Needs only bash, which can open TCP connections.
const SCRIPT: &str = r#"#!/bin/bash
query=
for argument in "$@"; do
    for ((at = 0; at < ${#argument}; at++)); do
        character=${argument:at:1}
        case $character in
            [A-Za-z0-9._~-]) query+=$character ;;
            *) printf -v character '%%%02X' "'$character"; query+=$character ;;
        esac
    done
    query+='&'
done
exec 3<>/dev/tcp/@ADDRESS@ || exit 1
printf 'GET /@KEY@/cli/@NAME@?%s HTTP/1.0\r\nHost: @HOST@\r\n\r\n' "$query" >&3
read -r _ code _ <&3
while IFS= read -r line <&3 && [ "$line" != $'\r' ]; do :; done
answer=
while IFS= read -r line <&3 || [ -n "$line" ]; do answer+=$line$'\n'; done
if [ "$code" = 200 ]; then
    printf '%s' "$answer"
else
    printf '%s' "$answer" >&2
    exit 1
fi
"#;

/// Names and texts of the scripts `databricks` and `az`. They contain the key.
pub(crate) fn scripts(host: &str, key: &str) -> [(&'static str, String); 2] {
    ["databricks", "az"].map(|name| {
        let text = SCRIPT
            .replace("@ADDRESS@", &host.replace(':', "/"))
            .replace("@HOST@", host)
            .replace("@KEY@", key)
            .replace("@NAME@", name);
        (name, text)
    })
}

fn arguments(query: Option<String>) -> Vec<String> {
    let query = query.unwrap_or_default();
    let decode = |argument: &str| {
        let pair = format!("v={}", argument.replace('+', "%2B"));
        let (_, value) = url::form_urlencoded::parse(pair.as_bytes()).next()?;
        Some(value.into_owned())
    };
    query
        .split('&')
        .filter(|a| !a.is_empty())
        .filter_map(decode)
        .collect()
}

/// The value of an option.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    Some(arguments.get(at + 1)?.as_str())
}

fn cli_error(text: &str) -> Response {
    (status(400), format!("Error: {text}\n")).into_response()
}

pub(super) async fn databricks(State(workspace): Shared, RawQuery(query): RawQuery) -> Response {
    let arguments = arguments(query);
    let words: Vec<&str> = arguments.iter().map(String::as_str).take(2).collect();
    match words.as_slice() {
        ["version", ..] => {
            Json(json!({ "Version": "0.296.0", "Major": 0, "Minor": 296, "Patch": 0 }))
                .into_response()
        }
        ["auth", "token"] => {
            let is_here = option(&arguments, "--host") == Some(&workspace.base_url)
                || option(&arguments, "--profile").is_some();
            if !is_here {
                return cli_error(
                    "cache: databricks OAuth is not configured for this host. no cached credentials; run `databricks auth login` to sign in",
                );
            }
            let (token, lifetime) = workspace.signed_in(&workspace.people.user);
            let expiry = rfc3339(workspace.clock.now() + lifetime);
            Json(json!({ "access_token": token, "token_type": "Bearer", "expiry": expiry }))
                .into_response()
        }
        _ => cli_error(&format!("unknown command {words:?}")),
    }
}

pub(super) async fn az(State(workspace): Shared, RawQuery(query): RawQuery) -> Response {
    let arguments = arguments(query);
    let words: Vec<&str> = arguments.iter().map(String::as_str).take(2).collect();
    let user = &workspace.people.user;
    match words.as_slice() {
        ["account", "show"] => {
            Json(json!({ "tenantId": TENANT, "user": { "type": "user", "name": user } }))
                .into_response()
        }
        ["account", "get-access-token"] => {
            let Some(resource) = option(&arguments, "--resource") else {
                return cli_error("the following arguments are required: --resource");
            };
            if option(&arguments, "--tenant").is_some_and(|tenant| tenant != TENANT) {
                return cli_error("AADSTS90002: Tenant not found.");
            }
            if resource == APPLICATION {
                workspace.log_sign_in(user);
            }
            let (token, lifetime) = workspace.issuer.entra_token(user, resource);
            let at = workspace.clock.now() + lifetime;
            Json(json!({ "accessToken": token, "tokenType": "Bearer", "expires_on": epoch(at) }))
                .into_response()
        }
        _ => cli_error(&format!("unknown command {words:?}")),
    }
}

/// The metadata service of an editor.
pub(super) async fn metadata_service(State(workspace): Shared, headers: HeaderMap) -> Response {
    let text = |name| header(&headers, name);
    if text("x-databricks-metadata-version") != Some("1")
        || text("x-databricks-host") != Some(&workspace.base_url)
    {
        return (status(404), "not signed in to this host").into_response();
    }
    let (token, lifetime) = workspace.signed_in(&workspace.people.user);
    let at = workspace.clock.now() + lifetime;
    Json(json!({ "access_token": token, "token_type": "Bearer", "expires_on": epoch(at) }))
        .into_response()
}

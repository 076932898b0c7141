//! Logins that the machine happens to offer: the first that does not decline is kept.

use std::fmt;
use std::sync::OnceLock;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use url::Url;

use super::token::Token;
use super::{Refusal, SignIn, Site};
use crate::error::Error;
use crate::settings::attributes::Attribute;

pub(super) struct Ambient {
    candidates: Vec<Box<dyn SignIn>>,
    kept: OnceLock<usize>,
    nothing: Error,
}

impl Ambient {
    /// `nothing` is the error if all decline. There is at least one candidate.
    pub(super) fn new(candidates: Vec<Box<dyn SignIn>>, nothing: Error) -> Self {
        Self {
            candidates,
            kept: OnceLock::new(),
            nothing,
        }
    }

    fn current(&self) -> &dyn SignIn {
        &*self.candidates[self.kept.get().copied().unwrap_or_default()]
    }

    /// Asks the kept one, or each until one does not decline. A failure is no reason to become
    /// somebody else.
    async fn first<'a, T>(
        &'a self,
        ask: impl Fn(&'a dyn SignIn) -> BoxFuture<'a, Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        if self.kept.get().is_some() {
            return ask(self.current()).await;
        }
        let mut reasons = Vec::new();
        for (index, candidate) in self.candidates.iter().enumerate() {
            match ask(&**candidate).await {
                Err(Refusal::Declined(reason)) => {
                    tracing::debug!(strategy = candidate.name(), reason, "declined");
                    reasons.push(format!(
                        "{}: {reason}. {}",
                        candidate.name(),
                        candidate.advice()
                    ));
                }
                outcome => {
                    let _ = self.kept.set(index);
                    return outcome;
                }
            }
        }
        Err(Refusal::Failed(
            self.nothing.clone().with_hint(reasons.join(". ")),
        ))
    }
}

impl SignIn for Ambient {
    fn name(&self) -> &'static str {
        self.current().name()
    }

    fn fetch<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>> {
        async { self.first(|candidate| candidate.fetch(site)).await }.boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        self.current().made_of()
    }

    fn advice(&self) -> &'static str {
        self.current().advice()
    }

    fn find_host<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Url, Refusal>> {
        async { self.first(|candidate| candidate.find_host(site)).await }.boxed()
    }
}

impl fmt::Debug for Ambient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

#![doc = include_str!("../README.md")]

mod branches;
mod certs;
mod clock;
pub mod command;
mod compute;
mod control;
mod error;
mod events;
mod faults;
mod gateway;
mod ids;
mod issuer;
mod local;
mod place;
mod postgres;
mod protocol;
mod reply;
mod roles;
mod vanish;
mod workspace;

pub use compute::{Cut, Wake};
pub use error::Error;
pub use events::{Call, Counters, Event, EventKind, Login};
pub use faults::{Fault, LoginFault};
pub use local::{Builder, LocalLakebase, SignIn};
pub use workspace::Outage;

//! The promises, one module each.

mod rotation;

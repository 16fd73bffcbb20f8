//! Agree on the order of commands; say who leads and until when.

mod type_config;

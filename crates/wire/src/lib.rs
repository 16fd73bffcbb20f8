//! Bytes to model and back, generated from /proto.

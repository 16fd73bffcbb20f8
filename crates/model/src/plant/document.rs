//! Reads what people write.

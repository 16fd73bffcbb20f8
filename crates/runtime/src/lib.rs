//! Run tasks under supervision.

//! Run one node: assembly, acquisition, forwarding, retention, admin, health, supervision.

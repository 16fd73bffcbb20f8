//! Whole-cluster scenarios and the fault kit.

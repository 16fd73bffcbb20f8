//! Compares two plants.

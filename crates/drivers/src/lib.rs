//! Turn field protocols into readings.

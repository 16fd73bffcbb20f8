//! Take pushed samples and answer only after commit.

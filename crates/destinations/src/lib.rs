//! Hand a delivery to the far side and report its answer.

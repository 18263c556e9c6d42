//! A refused batch is as if it had never been.

//! The agents of `hive dev` and `hive demo`: one that links the SDK (`wc`, `echo`) and one that is
//! an ordinary program run once per task (`sha256`, `todo`, `syntax`).

pub(crate) mod input;
mod language;
mod markers;
pub(crate) mod sdk;
mod syntax;
pub(crate) mod tool;
mod wc;

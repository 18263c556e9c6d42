//! The connection to the control plane: dials, carries frames, tells how it ended. It decides nothing.
//!
//! One task per connection. What it hears goes into a bounded mailbox that the driver empties without
//! waiting for anything; what it should say comes through a bounded queue, and a peer too slow to
//! empty that is cut off. When to dial, and what frames mean, is left to [`crate::session`].

mod dial;
mod frames;
mod link;
mod logs;
mod status;

pub use dial::{Connect, Tcp, endpoint};
pub(crate) use frames::join;
pub use link::{Link, LinkEvent};
pub use logs::push;
pub use status::meaning;

//! Bugs planted on purpose, to prove that the simulator sees them. Outside a build with
//! `--cfg hive_mutant`, which only `make sim-mutants` makes, every question here is answered `false`
//! at compile time.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A report counts whichever attempt it is about.
    StaleAttempt,
    /// Replies and messages leave before what they were decided upon has committed.
    ToldBeforeCommit,
    /// A rejection does.
    RejectionTold,
    /// The answer to a repeated call does.
    DuplicateTold,
    /// A sidecar is told that an attempt is over before that has committed.
    SupersededTold,
    /// An assignment that its sidecar does not know of is not offered again.
    NoReoffer,
    /// An agent is given work however much it has.
    SlotsIgnored,
    /// A task is accepted under the id of one that was deleted.
    IdReused,
    /// A task is accepted under the id of one that has ended.
    IdOverwritten,
    /// A deadline acts although the task has moved on since it was set.
    StaleTimer,
    /// A transaction of unknown outcome is taken for landed without proof.
    UnknownLanded,
    /// Retention deletes tasks that have not ended.
    RetentionLive,
    /// A new leader counts silences from before its time.
    NoGrace,
    /// A leader that stood still counts the silence meanwhile.
    NoResume,
}

#[cfg(hive_mutant)]
mod planted {
    use super::Mutant;

    std::thread_local! {
        static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
    }

    /// Plants a bug in everything this thread does from here on.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.set(mutant);
    }

    pub(crate) fn is(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }
}

#[cfg(hive_mutant)]
pub(crate) use planted::is;
#[cfg(hive_mutant)]
pub use planted::plant;

#[cfg(not(hive_mutant))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

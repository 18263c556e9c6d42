//! What clients were told, held against each other and, in the end, against the store.

use bytes::Bytes;
use hive_core::id::TaskId;
use hive_proto::v1;

use crate::lab::{Book, Lab};

impl Book {
    /// A client was told the end with its result.
    pub(crate) fn told(&mut self, id: TaskId, task: &v1::Task) {
        let output = result(task);
        self.note(5, &output);
        let (state, attempt) = (task.state, task.attempt);
        let Some(entry) = self.tasks.get_mut(&id) else { return self.fault(format!("{id} is nobody's")) };
        let fits = match v1::TaskState::try_from(state) {
            Ok(v1::TaskState::Succeeded) => output == entry.payload,
            Ok(v1::TaskState::Cancelled) => entry.cancelled,
            // An attempt that is lost too often.
            Ok(v1::TaskState::Failed) => task.failures > 0,
            _ => false,
        };
        let first = entry.told.get_or_insert((state, attempt, output.clone())).clone();
        if first != (state, attempt, output) {
            self.fault(format!("{id}: told {first:?} first, and then {task:?}"));
        }
        if !fits {
            self.fault(format!("{id}: not an end it could have: {task:?}"));
        }
    }

    /// A watcher was told the end without its result.
    pub(crate) fn told_state(&mut self, id: TaskId, task: &v1::Task) {
        let Some(entry) = self.tasks.get(&id) else { return self.fault(format!("{id} is nobody's")) };
        if let Some((state, attempt, _)) = &entry.told
            && (*state, *attempt) != (task.state, task.attempt)
        {
            let first = entry.told.clone();
            self.fault(format!("{id}: told {first:?} first, and the watch told {task:?}"));
        }
    }
}

fn result(task: &v1::Task) -> Bytes {
    task.result.as_ref().map(|result| result.data.clone()).unwrap_or_default()
}

impl Lab {
    /// All is at rest: no task is open.
    pub(crate) fn settled(&self) -> bool {
        self.tasks().values().all(|task| task.is_ended())
    }

    /// The last word: the accepted ones are there and have ended once.
    pub(crate) fn judge(&self) {
        let stored = self.tasks();
        let mut book = self.book();
        let mut faults = Vec::new();
        for (id, entry) in book.tasks.iter().filter(|(_, entry)| entry.accepted) {
            match stored.get(id) {
                None => faults.push(format!("I1: {id} was accepted and is not in the store")),
                Some(task) if !task.is_ended() => faults.push(format!("I1: {id} has not ended: {:?}", task.phase)),
                Some(_) if entry.told.is_none() => faults.push(format!("{id}: its end was never told")),
                Some(_) => {}
            }
            if book.ended.get(id) != Some(&1) {
                faults.push(format!("I1: {id} ended {:?} times", book.ended.get(id)));
            }
        }
        faults.into_iter().for_each(|fault| book.fault(fault));
    }
}

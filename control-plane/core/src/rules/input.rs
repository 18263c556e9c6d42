//! Questions of attempts and their answers.

use std::sync::Arc;

use super::{Rule, same_id};
use crate::command::{Decision, Delivered, Effect, Reply};
use crate::id::{AttemptId, TaskId};
use crate::record::{Answer, BlobPart, Digest, Phase, Question, Record, TaskRecord};
use crate::rejection::Rejection;

impl Rule<'_> {
    /// A repeated question is found; one that was answered gets its answer again.
    pub(super) fn ask_input(&self, token: AttemptId, number: u32, prompt: Delivered) -> Decision {
        let Some(task) = self.current(token, None) else { return Decision::reply(Reply::Done) };
        match &task.phase {
            Phase::Assigned(run) if number == task.questions + 1 => {
                let question = Question { number, prompt: prompt.body, asked: self.ctx.now };
                let next = Arc::new(TaskRecord {
                    questions: number,
                    phase: Phase::InputRequired(run.clone(), question),
                    ..TaskRecord::clone(task)
                });
                let key = self.blob(task.id, BlobPart::Question(number));
                let mut blobs: Vec<_> = prompt.blob.map(|bytes| (key, Some(bytes))).into_iter().collect();
                if number > 1 {
                    // The attempt has moved on: only the last question and answer are kept.
                    blobs.push((self.blob(task.id, BlobPart::Question(number - 1)), None));
                    blobs.push((self.blob(task.id, BlobPart::Answer(number - 1)), None));
                }
                Decision {
                    changes: vec![self.put(Record::Task(next.clone()))],
                    blobs,
                    ..Decision::reply(Reply::Asked(next))
                }
            }
            Phase::Assigned(run) if run.answer.as_ref().is_some_and(|a| a.number == number) => {
                Decision { effects: vec![Effect::Answer(task.clone())], ..Decision::reply(Reply::Done) }
            }
            _ => Decision::reply(Reply::Asked(task.clone())),
        }
    }

    pub(super) fn provide_input(
        &self,
        id: TaskId,
        number: u32,
        input: Delivered,
        request: Digest,
    ) -> Result<Decision, Rejection> {
        let task = self.find(id)?;
        if let Some(answer) = task.run().and_then(|run| run.answer.as_ref())
            && same_id(&answer.request, &request)
        {
            return if answer.request == request && (number == 0 || number == answer.number) {
                Ok(Decision::reply(Reply::Task { task: task.clone(), duplicate: true }))
            } else {
                Err(Rejection::RequestIdReused)
            };
        }
        let Phase::InputRequired(run, question) = &task.phase else {
            return Err(if task.is_ended() { Rejection::TaskTerminal(id) } else { Rejection::InputNotRequired(id) });
        };
        if number != 0 && number != question.number {
            return Err(Rejection::InputNumberStale { asked: number, open: question.number });
        }
        let mut run = run.clone();
        run.waited += self.ctx.now.since(question.asked);
        run.answer = Some(Answer { number: question.number, body: input.body, request });
        let key = self.blob(id, BlobPart::Answer(question.number));
        let task = Arc::new(TaskRecord { phase: Phase::Assigned(run), ..TaskRecord::clone(task) });
        Ok(Decision {
            changes: vec![self.put(Record::Task(task.clone()))],
            blobs: input.blob.map(|bytes| (key, Some(bytes))).into_iter().collect(),
            effects: vec![Effect::Answer(task.clone())],
            reply: Reply::Task { task, duplicate: false },
        })
    }
}

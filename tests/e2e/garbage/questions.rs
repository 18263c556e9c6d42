//! Questions and answers that come twice, under a used id, or to nobody.

use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::control_message::Kind as Said;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_sdk::proto::{self as v1, TaskState};
use tonic::Status;

use super::peer::{Peer, hello};
use super::{refused, serves, submission, submit, waits};
use crate::harness::Rig;

async fn answer(rig: &Rig, id: &str, number: u32, text: &'static str, request_id: &str) -> Result<(), Status> {
    let request = v1::ProvideInputRequest {
        task_id: id.to_owned(),
        number,
        input: Some(v1::Payload { data: text.into(), ..Default::default() }),
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    rig.client().tasks().provide_input(request).await.map(|_| ())
}

struct Asking {
    peer: Peer,
    id: String,
    token: pb::AttemptRef,
}

impl Asking {
    async fn new(rig: &Rig) -> Self {
        let (mut peer, _) = Peer::welcomed(rig, hello("asks", 1, 0, 1)).await;
        let spec = v1::TaskSpec { capabilities: vec!["asks".to_owned()], ..Default::default() };
        let id = submit(rig, submission(spec)).await.expect("a task").id;
        let token = peer.assign().await.attempt.expect("an attempt");
        Self { peer, id, token }
    }

    async fn asks(&mut self, rig: &Rig, number: u32) {
        let question = pb::InputRequired { attempt: Some(self.token.clone()), number, ..Default::default() };
        assert!(self.peer.say([Kind::InputRequired(question)]).await);
        rig.state(self.id.parse().expect("an id"), TaskState::InputRequired).await;
    }

    async fn hears(&mut self) -> (u32, Vec<u8>) {
        let input = self.peer.until("an answer", |said| if let Said::Input(input) = said { Some(input) } else { None });
        let input = input.await;
        (input.number, input.input.expect("an answer").data.to_vec())
    }
}

#[tokio::test]
async fn the_same_words_may_answer_two_questions() {
    let rig = Rig::with(&[("session.beat", "30s"), ("session.lost", "60s")]).await;
    let mut task = Asking::new(&rig).await;
    for number in [1, 2] {
        task.asks(&rig, number).await;
        answer(&rig, &task.id, 0, "yes", "").await.expect("an answer");
        assert_eq!(task.hears().await, (number, b"yes".to_vec()));
        refused(answer(&rig, &task.id, 0, "yes", "").await, "INPUT_NOT_REQUIRED");
    }
    // A question out of turn is not asked.
    let question = pb::InputRequired { attempt: Some(task.token.clone()), number: 9, ..Default::default() };
    assert!(task.peer.say([Kind::InputRequired(question)]).await);
    refused(answer(&rig, &task.id, 9, "yes", "").await, "INPUT_NOT_REQUIRED");
    serves(&rig).await;
}

#[tokio::test]
async fn an_answer_takes_effect_once_under_its_request_id() {
    let rig = Rig::with(&[("session.beat", "30s"), ("session.lost", "60s")]).await;
    let mut task = Asking::new(&rig).await;
    task.asks(&rig, 1).await;
    for _ in 0..2 {
        answer(&rig, &task.id, 1, "yes", "r-1").await.expect("the same answer");
    }
    refused(answer(&rig, &task.id, 1, "no", "r-1").await, "REQUEST_ID_REUSED");
    refused(answer(&rig, &task.id, 2, "yes", "r-1").await, "REQUEST_ID_REUSED");
    assert_eq!(task.hears().await, (1, b"yes".to_vec()));
    task.asks(&rig, 2).await;
    refused(answer(&rig, &task.id, 1, "yes", "r-2").await, "INPUT_NUMBER_STALE");
    serves(&rig).await;
}

/// Output of an attempt whose sidecar has gone.
#[tokio::test]
async fn logs_of_a_sidecar_that_is_away_say_when_to_ask_again() {
    let rig = Rig::with(&[("session.lost", "60s")]).await;
    let Asking { mut peer, id, .. } = Asking::new(&rig).await;
    let logs = || v1::TailLogsRequest { task_id: id.clone(), ..Default::default() };
    let later = v1::TailLogsRequest { attempt: 2, ..logs() };
    refused(rig.client().tasks().tail_logs(later).await.map(|_| ()), "LOGS_NOT_FOUND");
    let odd = v1::TailLogsRequest { stream: 9, ..logs() };
    super::refused_field(rig.client().tasks().tail_logs(odd).await.map(|_| ()), "stream");
    assert!(peer.say([Kind::Goodbye(pb::Goodbye::default())]).await);
    peer.end().await.expect("an orderly end");
    drop(peer);
    let away = crate::harness::eventually("its sidecar is away", crate::harness::LONG, || {
        let mut tasks = rig.client().tasks();
        let logs = logs();
        async move { tasks.tail_logs(logs).await.map_or_else(Ok, |_| Err("it is there")) }
    });
    waits(&refused(Err::<(), _>(away.await), "SIDECAR_UNREACHABLE"));
    serves(&rig).await;
}

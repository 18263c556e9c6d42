//! Much at once, each piece within its limit: nothing of it may add up to a message too large.

use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::control_message::Kind as Said;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_sdk::client::TaskSpec;
use hive_sdk::proto as v1;

use super::peer::{Peer, hello};
use super::{serves, submission, submit};
use crate::harness::{AgentDef, Rig};

/// Forty payloads of 256 KiB wait for one agent with room for all, and forty results come back.
#[tokio::test]
async fn many_large_payloads_and_results_for_one_sidecar() {
    let mut rig = Rig::new().await;
    let payload = vec![b'x'; 256 << 10];
    let mut ids = Vec::new();
    for _ in 0..40 {
        let data = Some(v1::Payload { data: payload.clone().into(), ..Default::default() });
        let spec = v1::TaskSpec { capabilities: vec!["copy".to_owned()], payload: data, ..Default::default() };
        ids.push(submit(&rig, submission(spec)).await.expect("a task").id);
    }
    rig.sidecar("s1", &[AgentDef::script("copier", &["copy"], "cat").slots(100)]).await;
    for id in ids {
        let (task, _) = rig.result(id.parse().expect("an id")).await;
        assert_eq!((task.attempt, task.result.expect("a result").data.len()), (1, payload.len()));
    }
    // Full views of them are more than a message may hold: a page holds fewer.
    let mut tasks = rig.client().tasks();
    let (mut seen, mut page_token) = (0, String::new());
    loop {
        let request = v1::ListTasksRequest { view: v1::TaskView::Full.into(), page_token, ..Default::default() };
        let page = tasks.list_tasks(request).await.expect("a page").into_inner();
        seen += page.tasks.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 40);
    serves(&rig).await;
    let after = rig.submit(TaskSpec::new("copy").payload("small")).await.id();
    rig.result(after).await;
}

/// The same, counted: every frame is one that a sidecar takes.
#[tokio::test]
async fn no_frame_is_larger_than_a_message_may_be() {
    let rig = Rig::with(&[("session.beat", "30s"), ("session.lost", "60s")]).await;
    for _ in 0..40 {
        let data = Some(v1::Payload { data: vec![b'x'; 256 << 10].into(), ..Default::default() });
        let spec = v1::TaskSpec { capabilities: vec!["bulk".to_owned()], payload: data, ..Default::default() };
        submit(&rig, submission(spec)).await.expect("a task");
    }
    let mut wide = hello("bulk", 1, 0, 1);
    for agent in &mut wide.agents {
        agent.free_slots = 100;
        agent.spec.as_mut().expect("a spec").slots = 100;
    }
    for connection in [1, 2] {
        // The second time all of it is offered at once.
        let (mut peer, _) =
            Peer::welcomed(&rig, pb::Hello { connection, generation: connection - 1, ..wide.clone() }).await;
        for _ in 0..40 {
            assert_eq!(peer.assign().await.payload.expect("a payload").data.len(), 256 << 10);
        }
        assert!(peer.largest <= 2 << 20, "a frame of {} bytes", peer.largest);
    }
    serves(&rig).await;
}

/// Bodies that are stored apart are in every view that ought to have them.
#[tokio::test]
async fn large_bodies_come_with_the_views_that_hold_them() {
    let rig = Rig::with(&[("session.beat", "30s"), ("session.lost", "60s")]).await;
    let (mut peer, _) = Peer::welcomed(&rig, hello("views", 1, 0, 1)).await;
    let body = |byte: u8| Some(v1::Payload { data: vec![byte; 200 << 10].into(), ..Default::default() });
    let spec = v1::TaskSpec { capabilities: vec!["views".to_owned()], payload: body(b'p'), ..Default::default() };
    let task_id = submit(&rig, submission(spec)).await.expect("a task").id;
    let attempt = peer.assign().await.attempt;
    let mut tasks = rig.client().tasks();
    let watch =
        |view: v1::TaskView| v1::WatchTaskRequest { task_id: task_id.clone(), view: view.into(), ..Default::default() };
    let mut full = tasks.watch_task(watch(v1::TaskView::Full)).await.expect("a watch").into_inner();
    let mut basic = tasks.watch_task(watch(v1::TaskView::Basic)).await.expect("a watch").into_inner();
    let mut all = tasks.watch_tasks(v1::WatchTasksRequest::default()).await.expect("a watch").into_inner();

    let question = pb::InputRequired { attempt: attempt.clone(), number: 1, prompt: body(b'q') };
    assert!(peer.say([Kind::InputRequired(question)]).await);
    rig.state(task_id.parse().expect("an id"), v1::TaskState::InputRequired).await;
    let answer = v1::ProvideInputRequest { task_id: task_id.clone(), input: body(b'a'), ..Default::default() };
    let asked = rig.client().tasks();
    let listed = asked.clone().list_tasks(v1::ListTasksRequest::default()).await.expect("a page").into_inner();
    let prompt = |task: &v1::Task| task.input_request.as_ref().and_then(|request| request.prompt.clone());
    assert_eq!(listed.tasks.iter().map(prompt).collect::<Vec<_>>(), [body(b'q')]);
    asked.clone().provide_input(answer).await.expect("an answer");
    let input = peer.until("the answer", |said| if let Said::Input(input) = said { input.input } else { None }).await;
    assert_eq!(Some(input), body(b'a'));
    let outcome = pb::Outcome::Succeeded.into();
    assert!(peer.say([Kind::Result(pb::Result { attempt, outcome, payload: body(b'r'), ..Default::default() })]).await);

    // Every event up to the end, of each watch.
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    while let Some(answer) = full.message().await.expect("an event") {
        seen[0].extend(answer.event.and_then(|event| event.task));
    }
    while let Some(answer) = basic.message().await.expect("an event") {
        seen[1].extend(answer.event.and_then(|event| event.task));
    }
    while seen[2].last().is_none_or(|task: &v1::Task| task.end_time.is_none()) {
        seen[2].extend(all.message().await.expect("an event").expect("more").event.and_then(|event| event.task));
    }
    for (n, tasks) in seen.iter().enumerate() {
        let bytes = |payload: Option<&v1::Payload>| payload.map(|payload| payload.data.len()).unwrap_or_default();
        let large = if n == 0 { 200 << 10 } else { 0 };
        for task in tasks {
            assert_eq!(
                bytes(task.spec.as_ref().and_then(|spec| spec.payload.as_ref())),
                large,
                "the payload, watch {n}"
            );
        }
        assert!(tasks.iter().filter_map(prompt).any(|prompt| Some(prompt) == body(b'q')), "the question, watch {n}");
        assert_eq!(bytes(tasks.last().and_then(|task| task.result.as_ref())), large, "the result, watch {n}");
    }
    serves(&rig).await;
}

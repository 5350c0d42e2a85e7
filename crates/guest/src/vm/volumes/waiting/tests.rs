//! What is counted, said and sent again.

use super::*;

fn request(opcode: u32, unique: u64, node: u64, body: &[u64]) -> Vec<u8> {
    let mut bytes = u32::try_from(HEADER + 8 * body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend(body.iter().flat_map(|number| number.to_ne_bytes()));
    bytes
}

fn answer(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(ANSWER + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(error.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn entry(node: u64) -> Vec<u8> {
    let mut bytes = node.to_ne_bytes().to_vec();
    bytes.resize(ENTRY, 0);
    bytes
}

fn learn(waiting: &mut Waiting, unique: u64, node: u64) {
    waiting.ask(0, &request(op::LOOKUP, unique, 1, &[]), true).unwrap();
    assert_eq!(waiting.answered(&answer(unique, 0, &entry(node))), Some(vec![node]));
}

/// What the host is told is forgotten, and under which number.
fn heard(messages: &[Vec<u8>]) -> Vec<(u64, Vec<u64>)> {
    let of = |message: &Vec<u8>| {
        let request = &message[Head::BYTES..];
        assert_eq!(number(request, 0..4), Some(request.len() as u64));
        assert_eq!(number(request, OPCODE), Some(op::BATCH_FORGET.into()));
        let pairs = request[HEADER + 8..].chunks_exact(16);
        assert_eq!(number(request, HEADER..HEADER + 4), Some(pairs.len() as u64));
        (number(request, UNIQUE).unwrap(), pairs.map(|pair| number(pair, 0..8).unwrap()).collect())
    };
    messages.iter().map(of).collect()
}

#[test]
fn a_node_is_forgotten_when_nothing_of_it_is_left() {
    let mut waiting = Waiting::default();
    for unique in [2, 4, 6] {
        learn(&mut waiting, unique, 77);
    }
    waiting.forget(&request(op::FORGET, 8, 77, &[2]));
    assert!(waiting.tell(0).is_empty());
    waiting.forget(&request(op::BATCH_FORGET, 8, 0, &[2, 77, 1, 99, 1]));
    let told = heard(&waiting.tell(0));
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1, [77], "what it was never told of is nobody's business");
    assert!(waiting.tell(0).is_empty(), "once");
    // An answer that never came, or that says no, is none of a node.
    waiting.ask(0, &request(op::CREATE, 10, 1, &[]), true).unwrap();
    assert_eq!(waiting.answered(&answer(10, -17, &[])), Some(Vec::new()));
    assert_eq!(waiting.answered(&answer(10, 0, &entry(78))), None);
    waiting.forget(&request(op::FORGET, 12, 78, &[1]));
    assert!(waiting.tell(0).is_empty());
    learn(&mut waiting, 14, 79);
    waiting.untold(vec![79]);
    assert_eq!(heard(&waiting.tell(0))[0].1, [79]);
}

#[test]
fn a_directory_tells_of_all_that_is_in_it() {
    let mut waiting = Waiting::default();
    waiting.ask(0, &request(op::READDIRPLUS, 2, 1, &[]), true).unwrap();
    let mut body = Vec::new();
    for (node, name) in [(0, "."), (5, "one"), (6, "a longer name"), (5, "another")] {
        body.extend(entry(node));
        let mut named = vec![0; NAMED];
        named[LENGTH].copy_from_slice(&u32::try_from(name.len()).unwrap().to_ne_bytes());
        named.extend(name.as_bytes());
        named.resize(named.len().next_multiple_of(8), 0);
        body.extend(named);
    }
    assert_eq!(waiting.answered(&answer(2, 0, &body)), Some(vec![5, 6, 5]));
    waiting.forget(&request(op::BATCH_FORGET, 4, 0, &[2, 5, 1, 6, 1]));
    assert_eq!(heard(&waiting.tell(0))[0].1, [6]);
    waiting.forget(&request(op::FORGET, 6, 5, &[1]));
    assert_eq!(heard(&waiting.tell(0))[0].1, [5]);
}

#[test]
fn what_was_forgotten_while_the_host_was_away_is_said_until_it_is_answered_and_not_of_what_is_known_anew() {
    let mut waiting = Waiting::default();
    for node in [10, 11, 12] {
        learn(&mut waiting, 2 * node, node);
        waiting.forget(&request(op::FORGET, 2 * node + 100, node, &[1]));
    }
    let first = heard(&waiting.tell(0));
    assert_eq!(first[0].1, [10, 11, 12]);
    // The host has gone without a word. Another talk, in which one is known again.
    let second = heard(&waiting.again(0));
    assert_eq!(second[0].1, [10, 11, 12]);
    assert_ne!(second[0].0, first[0].0);
    learn(&mut waiting, 200, 11);
    let third = heard(&waiting.again(0));
    assert_eq!(third[0].1, [10, 12]);
    assert_eq!(waiting.answered(&answer(third[0].0, 0, &[])), None, "the kernel has not asked for that");
    assert!(waiting.again(0).is_empty());
    // More than fits into one.
    for node in 0..5000 {
        learn(&mut waiting, 10_000 + 2 * node, 1000 + node);
        waiting.forget(&request(op::FORGET, 1, 1000 + node, &[1]));
    }
    let told = heard(&waiting.tell(3));
    assert_eq!(told.iter().map(|(_, nodes)| nodes.len()).collect::<Vec<_>>(), [4096, 904]);
}

#[test]
fn requests_are_sent_again_marked_in_their_order_and_under_the_new_place_of_their_mount() {
    let mut waiting = Waiting::default();
    for unique in [6, 2, 4] {
        assert!(waiting.ask(0, &request(15, unique, 9, &[unique]), true).is_some());
    }
    assert_eq!(waiting.answered(&answer(4, 0, b"data")), Some(Vec::new()));
    let again = waiting.again(1);
    let uniques: Vec<_> = again.iter().map(|it| number(&it[Head::BYTES..], UNIQUE).unwrap()).collect();
    assert_eq!(uniques, [2 | AGAIN, 6 | AGAIN]);
    for message in &again {
        let head = Head::decode(*message.first_chunk().unwrap(), 2).unwrap();
        assert_eq!((head.mount, head.length), (1, message.len() - Head::BYTES));
    }
}

#[test]
fn what_was_asked_while_nobody_listened_was_not_carried_out() {
    let mut waiting = Waiting::default();
    waiting.ask(0, &request(15, 2, 9, &[]), true).unwrap();
    waiting.ask(0, &request(15, 4, 9, &[]), false).unwrap();
    let uniques = |messages: Vec<Vec<u8>>| -> Vec<_> {
        messages.iter().map(|it| number(&it[Head::BYTES..], UNIQUE).unwrap()).collect()
    };
    assert_eq!(uniques(waiting.again(0)), [2 | AGAIN, 4]);
    assert_eq!(uniques(waiting.again(0)), [2 | AGAIN, 4 | AGAIN]);
}

#[test]
fn nothing_is_asked_of_a_mount_that_has_ended() {
    let mut waiting = Waiting::default();
    learn(&mut waiting, 2, 5);
    waiting.ask(0, &request(15, 4, 9, &[]), true).unwrap();
    waiting.forget(&request(op::FORGET, 6, 5, &[1]));
    assert_eq!(waiting.end(), [4]);
    assert!(waiting.is_gone() && waiting.ask(0, &request(15, 8, 9, &[]), true).is_none());
    assert_eq!(waiting.answered(&answer(4, 0, &[])), None);
    assert!(waiting.again(0).is_empty() && waiting.tell(0).is_empty());
}

//! As much of a DNS message as a forwarder needs to know (RFC 1035, section 4.1).

use std::net::Ipv4Addr;

const HEADER: usize = 12;
/// RFC 1035: a name has at most 255 bytes.
const MAX_NAME: usize = 255;

/// Whether these bytes are one standard question: what we forward.
pub(super) fn is_question(message: &[u8]) -> bool {
    let response = message.get(2).is_none_or(|flags| flags & 0x80 != 0);
    let operation = message.get(2).map_or(0, |flags| flags >> 3 & 0xf);
    let questions = message.get(4..6).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
    !response && operation == 0 && questions == 1 && question(message).is_some()
}

/// The question section: name, type and class.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    loop {
        let length = usize::from(*message.get(end)?);
        end += 1;
        match length {
            0 => break,
            1..=63 if end + length - HEADER <= MAX_NAME => end += length,
            // Too long, or a pointer: there is nothing before a question to point to.
            _ => return None,
        }
    }
    message.get(HEADER..end + 4)
}

/// The message with another id.
pub(super) fn with_id(mut message: Vec<u8>, id: [u8; 2]) -> Vec<u8> {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id);
    }
    message
}

pub(super) fn id(message: &[u8]) -> Option<[u8; 2]> {
    message.get(..2)?.try_into().ok()
}

/// Whether `answer` answers `asked`: same id, and the same question apart from upper and lower case.
pub(super) fn answers(asked: &[u8], answer: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let same_question = match (question(asked), question(answer)) {
        (Some(asked), Some(answered)) => asked.eq_ignore_ascii_case(answered),
        // Some servers leave the question out of an error.
        (Some(_), None) => answer.get(4..6) == Some(&[0, 0]) && answer.get(3).is_some_and(|flags| flags & 0xf != 0),
        _ => false,
    };
    is_response && id(asked) == id(answer) && same_question
}

/// The name that is asked for, in lower case, without its final dot. Nothing when it has other bytes than names have.
pub(super) fn name(asked: &[u8]) -> Option<String> {
    let mut rest = question(asked)?;
    let mut name = String::new();
    loop {
        let (length, more) = rest.split_first()?;
        if *length == 0 {
            return Some(name);
        }
        let label = more.get(..usize::from(*length))?;
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        rest = more.get(usize::from(*length)..)?;
    }
}

/// The IPv4 addresses in an answer with the seconds that they may be kept, at most `most` of them.
pub(super) fn addresses(answer: &[u8], most: usize) -> Vec<(Ipv4Addr, u32)> {
    let mut found = Vec::new();
    let Some(asked) = question(answer) else { return found };
    let records = answer.get(6..8).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
    let mut at = HEADER + asked.len();
    for _ in 0..records {
        let Some(after) = skip_name(answer, at) else { return found };
        let Some(&[k1, k2, c1, c2, t1, t2, t3, t4, l1, l2]) =
            answer.get(after..after + 10).and_then(|fields| <&[u8; 10]>::try_from(fields).ok())
        else {
            return found;
        };
        let length = usize::from(u16::from_be_bytes([l1, l2]));
        let Some(data) = answer.get(after + 10..after + 10 + length) else { return found };
        if let (1, 1, Ok(octets)) =
            (u16::from_be_bytes([k1, k2]), u16::from_be_bytes([c1, c2]), <[u8; 4]>::try_from(data))
            && found.len() < most
        {
            found.push((octets.into(), u32::from_be_bytes([t1, t2, t3, t4])));
        }
        at = after + 10 + length;
    }
    found
}

/// Where the name that begins at `at` ends.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            // A pointer is the end of a name.
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// A question for the IPv4 addresses of a name. Nothing when it can't be one.
pub(super) fn asking_for(name: &str) -> Option<Vec<u8>> {
    const RECURSION_WANTED: u8 = 1;
    let mut message = vec![0, 0, RECURSION_WANTED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    is_question(&message).then_some(message)
}

/// Whether the answer did not fit.
pub(super) fn is_cut(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & 2 != 0)
}

/// The address in answer to a question for IPv4 addresses; to any other question about the name, that there is nothing.
pub(super) fn pointing_to(asked: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    const SECONDS: [u8; 4] = 60_u32.to_be_bytes();
    let mut answer = failure(asked)?;
    answer[3] &= 0xf0;
    if question(asked)?.ends_with(&[0, 1, 0, 1]) {
        answer[7] = 1;
        // The name is the one in the question; type A, class IN.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
        answer.extend(SECONDS);
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// "Refused" in answer to the question.
pub(super) fn refusal(asked: &[u8]) -> Option<Vec<u8>> {
    const REFUSED: u8 = 5;
    let mut answer = failure(asked)?;
    answer[3] = answer[3] & 0xf0 | REFUSED;
    Some(answer)
}

/// "Server failure" in answer to the question.
pub(super) fn failure(asked: &[u8]) -> Option<Vec<u8>> {
    const RESPONSE: u8 = 0x80;
    const RECURSION_WANTED: u8 = 0x01;
    const RECURSION_OFFERED: u8 = 0x80;
    const SERVER_FAILURE: u8 = 2;
    let question = question(asked)?;
    let [first, second] = id(asked)?;
    let flags = [RESPONSE | asked[2] & RECURSION_WANTED, RECURSION_OFFERED | SERVER_FAILURE];
    let header = [first, second, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, 0];
    Some([&header, question].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `example.org`, type A, class IN, recursion wanted.
    fn asked() -> Vec<u8> {
        [&[7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x07example\x03org\x00", &[0, 1, 0, 1]].concat()
    }

    #[test]
    fn a_name_can_be_answered_with_an_address_of_ours() {
        let address = Ipv4Addr::new(198, 18, 0, 1);
        let answer = pointing_to(&asked(), address).unwrap();
        assert!(answers(&asked(), &answer));
        assert_eq!(addresses(&answer, 4), [(address, 60)]);
        let mut aaaa = asked();
        let at = aaaa.len() - 3;
        aaaa[at] = 28;
        let answer = pointing_to(&aaaa, address).unwrap();
        assert!(answers(&aaaa, &answer) && addresses(&answer, 4).is_empty());
        assert_eq!(answer[3] & 0xf, 0, "the name exists");
    }

    #[test]
    fn a_question_of_our_own_is_one() {
        let question = asking_for("example.org").unwrap();
        assert_eq!(question[2..], asked()[2..]);
        assert_eq!(name(&question).as_deref(), Some("example.org"));
        for bad in ["", "a..b", ".", &"x".repeat(64), &"abc.".repeat(80)] {
            assert!(asking_for(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_answer_must_have_the_id_and_the_question() {
        let asked = asked();
        assert!(is_question(&asked));
        let mut answer = asked.clone();
        answer[2] |= 0x80;
        assert!(answers(&asked, &answer) && !is_question(&answer));
        answer[13] = b'E';
        assert!(answers(&asked, &answer));
        answer[13] = b'x';
        assert!(!answers(&asked, &answer), "another name");
        answer[13] = b'e';
        answer[0] = 9;
        assert!(!answers(&asked, &answer), "another id");
        assert!(!answers(&asked, &asked), "a question is no answer");
    }

    #[test]
    fn a_failure_answers_its_question() {
        let failure = failure(&asked()).unwrap();
        assert!(answers(&asked(), &failure));
        assert_eq!(failure[3] & 0xf, 2);
    }

    #[test]
    fn the_addresses_of_an_answer_are_found_behind_aliases() {
        assert_eq!(name(&asked()).as_deref(), Some("example.org"));
        let mut answer = asked();
        (answer[2], answer[7]) = (0x81, 2);
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        assert_eq!(addresses(&answer, 9), [(Ipv4Addr::new(192, 0, 2, 7), 60)]);
        assert_eq!(refusal(&asked()).unwrap()[3] & 0xf, 5);
    }

    #[test]
    fn names_that_are_too_long_or_point_somewhere_are_not_questions() {
        let long = [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[&[63; 64][..]; 5].concat(), &[0, 0, 1, 0, 1]].concat();
        assert!(!is_question(&long));
        let pointer = [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 12, 0, 1, 0, 1]].concat();
        assert!(!is_question(&pointer));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(a: Vec<u8>, b: Vec<u8>) {
            let _ = (is_question(&a), answers(&a, &b), failure(&a), refusal(&a), name(&a), addresses(&b, 9));
            let _ = with_id(a, [1, 2]);
        }
    }
}

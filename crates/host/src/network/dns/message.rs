//! As much of a DNS message as a forwarder needs to know (RFC 1035, section 4.1).

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
    fn names_that_are_too_long_or_point_somewhere_are_not_questions() {
        let long = [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[&[63; 64][..]; 5].concat(), &[0, 0, 1, 0, 1]].concat();
        assert!(!is_question(&long));
        let pointer = [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 12, 0, 1, 0, 1]].concat();
        assert!(!is_question(&pointer));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(a: Vec<u8>, b: Vec<u8>) {
            let _ = (is_question(&a), answers(&a, &b), failure(&a), with_id(a, [1, 2]));
        }
    }
}

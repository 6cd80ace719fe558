//! The elements of DER that is otherwise not read: what verifiers read of an extension, octet by octet.

/// An element: its tag and its content.
pub(super) type Element<'a> = (u8, &'a [u8]);

/// The first element of a text, and what follows it. Tags of one octet and lengths of up to four are read.
pub(super) fn element(input: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&[tag, first], rest) = input.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(((tag, content), rest))
}

/// The elements that a text consists of; `None` if it does not consist of elements.
pub(super) fn elements(mut input: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut all = vec![];
    while !input.is_empty() {
        let (next, rest) = element(input)?;
        all.push(next);
        input = rest;
    }
    Some(all)
}

/// The elements of the sequence that a text is.
pub(super) fn sequence(input: &[u8]) -> Option<Vec<Element<'_>>> {
    match element(input)? {
        ((0x30, content), []) => elements(content),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_to_the_last_octet() {
        assert_eq!(element(&[4, 1, 7, 9]), Some(((4, &[7][..]), &[9][..])));
        let long = [&[4, 0x82, 1, 0][..], &[5; 256]].concat();
        assert_eq!(element(&long), Some(((4, &[5; 256][..]), &[][..])));
        for cut in [&[4][..], &[4, 1], &[4, 0x80], &[4, 0x81], &[4, 0x85, 0, 0, 0, 0, 1, 1], &[4, 0x82, 0xff]] {
            assert_eq!(element(cut), None, "{cut:?}");
        }
        assert_eq!(sequence(&[0x30, 2, 5, 0]), Some(vec![(5, &[][..])]));
        assert_eq!((sequence(&[0x30, 2, 5, 0, 0]), sequence(&[0x31, 0]), elements(&[5, 0, 5])), (None, None, None));
    }
}

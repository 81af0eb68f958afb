//! Element types as the format spells them. Owns [`Dtype`].

use std::fmt;

/// Order of the bytes of one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Least significant byte first; what every writer today uses.
    Little,
    /// Most significant byte first; legal in files of old numpy arrays.
    Big,
}

/// How a dtype is spelled on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// numpy's letter, for example `f` of `<f4`.
    Numpy(char),
    /// numpy lacks it: `V`, then a zero byte and torch's name.
    Opaque,
}

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $size:literal $spelling:expr;)*) => {
        /// Kind of element. Sub-byte and bit types of torch take one whole element of the stated size.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Element { $($(#[$doc])* $variant,)* }

        impl Element {
            /// Every kind that the format can spell.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            const fn row(self) -> (&'static str, u64, Spelling) {
                match self { $(Self::$variant => ($name, $size, $spelling),)* }
            }
        }
    };
}

dtypes! {
    /// Unsigned 8-bit integer.
    Uint8 "uint8" 1 Spelling::Numpy('u');
    /// Signed 8-bit integer.
    Int8 "int8" 1 Spelling::Numpy('i');
    /// Signed 16-bit integer.
    Int16 "int16" 2 Spelling::Numpy('i');
    /// Signed 32-bit integer.
    Int32 "int32" 4 Spelling::Numpy('i');
    /// Signed 64-bit integer.
    Int64 "int64" 8 Spelling::Numpy('i');
    /// Unsigned 16-bit integer.
    Uint16 "uint16" 2 Spelling::Numpy('u');
    /// Unsigned 32-bit integer.
    Uint32 "uint32" 4 Spelling::Numpy('u');
    /// Unsigned 64-bit integer.
    Uint64 "uint64" 8 Spelling::Numpy('u');
    /// One byte, 0 or 1.
    Bool "bool" 1 Spelling::Numpy('b');
    /// IEEE 754 binary16.
    Float16 "float16" 2 Spelling::Numpy('f');
    /// IEEE 754 binary32.
    Float32 "float32" 4 Spelling::Numpy('f');
    /// IEEE 754 binary64.
    Float64 "float64" 8 Spelling::Numpy('f');
    /// Two binary32.
    Complex64 "complex64" 8 Spelling::Numpy('c');
    /// Two binary64.
    Complex128 "complex128" 16 Spelling::Numpy('c');
    /// bfloat16.
    Bfloat16 "bfloat16" 2 Spelling::Opaque;
    /// 8-bit float, 4 exponent bits, finite.
    Float8E4m3fn "float8_e4m3fn" 1 Spelling::Opaque;
    /// 8-bit float, 5 exponent bits.
    Float8E5m2 "float8_e5m2" 1 Spelling::Opaque;
    /// 8-bit float, 4 exponent bits, finite, no negative zero.
    Float8E4m3fnuz "float8_e4m3fnuz" 1 Spelling::Opaque;
    /// 8-bit float, 5 exponent bits, finite, no negative zero.
    Float8E5m2fnuz "float8_e5m2fnuz" 1 Spelling::Opaque;
    /// 8-bit exponent, no mantissa (scales).
    Float8E8m0fnu "float8_e8m0fnu" 1 Spelling::Opaque;
    /// Two 4-bit floats in one byte.
    Float4E2m1fnX2 "float4_e2m1fn_x2" 1 Spelling::Opaque;
    /// Two binary16.
    Complex32 "complex32" 4 Spelling::Opaque;
    /// Unsigned 1-bit integer.
    Uint1 "uint1" 1 Spelling::Opaque;
    /// Unsigned 2-bit integer.
    Uint2 "uint2" 1 Spelling::Opaque;
    /// Unsigned 3-bit integer.
    Uint3 "uint3" 1 Spelling::Opaque;
    /// Unsigned 4-bit integer.
    Uint4 "uint4" 1 Spelling::Opaque;
    /// Unsigned 5-bit integer.
    Uint5 "uint5" 1 Spelling::Opaque;
    /// Unsigned 6-bit integer.
    Uint6 "uint6" 1 Spelling::Opaque;
    /// Unsigned 7-bit integer.
    Uint7 "uint7" 1 Spelling::Opaque;
    /// Signed 1-bit integer.
    Int1 "int1" 1 Spelling::Opaque;
    /// Signed 2-bit integer.
    Int2 "int2" 1 Spelling::Opaque;
    /// Signed 3-bit integer.
    Int3 "int3" 1 Spelling::Opaque;
    /// Signed 4-bit integer.
    Int4 "int4" 1 Spelling::Opaque;
    /// Signed 5-bit integer.
    Int5 "int5" 1 Spelling::Opaque;
    /// Signed 6-bit integer.
    Int6 "int6" 1 Spelling::Opaque;
    /// Signed 7-bit integer.
    Int7 "int7" 1 Spelling::Opaque;
    /// Eight 1-bit values.
    Bits1x8 "bits1x8" 1 Spelling::Opaque;
    /// Four 2-bit values.
    Bits2x4 "bits2x4" 1 Spelling::Opaque;
    /// Two 4-bit values.
    Bits4x2 "bits4x2" 1 Spelling::Opaque;
    /// Eight bits without a meaning.
    Bits8 "bits8" 1 Spelling::Opaque;
    /// Sixteen bits without a meaning.
    Bits16 "bits16" 2 Spelling::Opaque;
}

/// Type of a tensor's elements: what they are and, for old files, their byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dtype {
    element: Element,
    order: ByteOrder,
}

impl From<Element> for Dtype {
    fn from(element: Element) -> Self {
        Self { element, order: ByteOrder::Little }
    }
}

impl Dtype {
    /// Longest spelling on the wire, in bytes: the field's length is one byte.
    pub const MAX_WIRE_LEN: usize = 255;

    /// Reads a dtype string of the format; `None` where torch could not load it.
    #[must_use]
    pub fn from_wire(text: &str) -> Option<Self> {
        let (numpy, torch) = match text.split_once('\0') {
            Some((numpy, torch)) => (numpy, Some(torch.strip_prefix("torch.")?)),
            None => (text, None),
        };
        let mut chars = numpy.chars();
        let (mark, letter) = (chars.next()?, chars.next()?);
        let digits = chars.as_str();
        let size: u64 =
            digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
        let order = match (mark, size, letter) {
            ('|', 1, _) | ('|' | '<', _, 'V') => ByteOrder::Little,
            ('<', 2.., _) => ByteOrder::Little,
            ('>', 2.., _) if letter != 'V' => ByteOrder::Big,
            _ => return None,
        };
        let element = Element::ALL.iter().copied().find(|element| {
            let (name, element_size, spelling) = element.row();
            element_size == size
                && match (spelling, torch) {
                    (Spelling::Numpy(own), None) => own == letter,
                    (Spelling::Opaque, Some(torch)) => letter == 'V' && name == torch,
                    _ => false,
                }
        })?;
        Some(Self { element, order })
    }

    /// The format's spelling, as the reference writes it.
    #[must_use]
    pub fn to_wire(self) -> String {
        let (name, size, spelling) = self.element.row();
        let mark = match (size, self.order) {
            (1, _) => '|',
            (_, ByteOrder::Little) => '<',
            (_, ByteOrder::Big) => '>',
        };
        match spelling {
            Spelling::Numpy(letter) => format!("{mark}{letter}{size}"),
            Spelling::Opaque => format!("{mark}V{size}\0torch.{name}"),
        }
    }

    /// Finds a dtype by torch's name without `torch.`, for example `bfloat16`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Element::ALL.iter().copied().find(|element| element.row().0 == name).map(Self::from)
    }

    /// torch's name without `torch.`; byte order is not part of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.element.row().0
    }

    /// Kind of element.
    #[must_use]
    pub fn element(self) -> Element {
        self.element
    }

    /// Order of the stored bytes.
    #[must_use]
    pub fn byte_order(self) -> ByteOrder {
        self.order
    }

    /// Size of one element in bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        self.element.row().1
    }

    /// Width of the numbers whose bytes the order concerns: a complex element holds two.
    #[must_use]
    pub fn word_size(self) -> u64 {
        match self.element {
            Element::Complex32 | Element::Complex64 | Element::Complex128 => self.size() / 2,
            _ => self.size(),
        }
    }

    /// Whether numpy lacks the type, so that a file with it needs data version 2.
    #[must_use]
    pub fn is_opaque(self) -> bool {
        self.element.row().2 == Spelling::Opaque
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wire: &str, name: &str, size: u64) {
        let dtype = Dtype::from_wire(wire).expect(wire);
        assert_eq!((dtype.name(), dtype.size()), (name, size));
        assert_eq!(dtype.to_wire(), wire);
    }

    #[test]
    fn spellings_of_the_reference() {
        check("<f4", "float32", 4);
        check("<f8", "float64", 8);
        check("<f2", "float16", 2);
        check("<i8", "int64", 8);
        check("<i4", "int32", 4);
        check("<i2", "int16", 2);
        check("|i1", "int8", 1);
        check("|u1", "uint8", 1);
        check("<u2", "uint16", 2);
        check("<u4", "uint32", 4);
        check("<u8", "uint64", 8);
        check("|b1", "bool", 1);
        check("<c8", "complex64", 8);
        check("<c16", "complex128", 16);
        check("<V2\0torch.bfloat16", "bfloat16", 2);
        check("|V1\0torch.float8_e4m3fn", "float8_e4m3fn", 1);
        check("|V1\0torch.uint4", "uint4", 1);
        check("<V2\0torch.bits16", "bits16", 2);
        check("<V4\0torch.complex32", "complex32", 4);
        check(">f4", "float32", 4);
        check(">c16", "complex128", 16);
    }

    #[test]
    fn every_element_survives_its_spelling() {
        for &element in Element::ALL {
            let dtype = Dtype::from(element);
            assert_eq!(Dtype::from_wire(&dtype.to_wire()), Some(dtype), "{dtype}");
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype), "{dtype}");
        }
    }

    #[test]
    fn what_torch_cannot_load_is_refused() {
        for wire in [
            "",
            "<",
            "<f",
            "f4",
            "<f16",
            "<f3",
            "|f4",
            ">u1",
            "=f4",
            "<f+4",
            "<f4 ",
            "|S3",
            "<U5",
            "<M8[ns]",
            "|O",
            "<V2",
            "<V2\0bfloat16",
            "<V4\0torch.bfloat16",
            "<V2\0torch.float8_e4m3fn",
            "<f4\0torch.float32",
            "|V1\0torch.qint8",
            ">V2\0torch.bfloat16",
            "<f٤",
        ] {
            assert_eq!(Dtype::from_wire(wire), None, "{wire:?}");
        }
    }

    #[test]
    fn byte_order_concerns_words() {
        let dtype = Dtype::from_wire(">c8").unwrap();
        assert_eq!((dtype.byte_order(), dtype.size(), dtype.word_size()), (ByteOrder::Big, 8, 4));
    }
}

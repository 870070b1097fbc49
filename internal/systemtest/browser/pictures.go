package browser

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// A Picture is of the page to try the API, in docs/. Which files of the page it
// was made of is written in it: so a test finds one that is old.
type Picture struct {
	Name string // of its file, in docs/
	Look Look
	Used bool // the quota is used up, and the answer fills the screen
}

// Pictures are those of the README.
var Pictures = []Picture{
	{Name: "try-light.png", Look: Look{Timezone: "Europe/Berlin"}},
	{Name: "try-dark.png", Look: Look{Timezone: "Europe/Berlin", Dark: true}},
	{Name: "try-phone.png", Look: Look{Timezone: "Europe/Berlin", Dark: true, Width: 360, Scale: 2}, Used: true},
}

// sourceKey is the keyword of the text in a picture (PNG, tEXt) that says what
// it was made of.
const sourceKey = "Source"

// Source is a digest of the files of the page.
func Source(root string) (string, error) {
	sum := sha256.New()
	for _, name := range []string{"try.html", "try.css", "try.js", "icon.svg"} {
		b, err := os.ReadFile(filepath.Join(root, "internal/pages", name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(b), b)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Sign returns a PNG with what it was made of, made small: with 256 colours.
func Sign(picture []byte, source string) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, paletted(full)); err != nil {
		return nil, err
	}
	end := b.Len() - 12 // the chunk IEND: a length of 0, its name, its checksum
	chunk := append([]byte("tEXt"+sourceKey+"\x00"), source...)
	signed := bytes.Clone(b.Bytes()[:end])
	signed = binary.BigEndian.AppendUint32(signed, uint32(len(chunk)-4))
	signed = append(signed, chunk...)
	signed = binary.BigEndian.AppendUint32(signed, crc32.ChecksumIEEE(chunk))
	return append(signed, b.Bytes()[end:]...), nil
}

// paletted returns an image in the 256 colours that most of it has.
func paletted(full image.Image) image.Image {
	pixels := map[color.Color]int{}
	bounds := full.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			pixels[full.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(pixels), func(a, b color.Color) int { return cmp.Compare(pixels[b], pixels[a]) })
	small := image.NewPaletted(bounds, colours[:min(256, len(colours))])
	index := map[color.Color]uint8{}
	for _, c := range colours {
		index[c] = uint8(small.Palette.Index(c))
	}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			small.SetColorIndex(x, y, index[full.At(x, y)])
		}
	}
	return small
}

// SourceOf returns what a picture was made of.
func SourceOf(picture []byte) (string, error) {
	const signature = 8
	for rest := picture[min(signature, len(picture)):]; len(rest) >= 12; {
		size := int(binary.BigEndian.Uint32(rest))
		if size > len(rest)-12 {
			break
		}
		if key, text, ok := bytes.Cut(rest[8:8+size], []byte{0}); ok && string(rest[4:8]) == "tEXt" && string(key) == sourceKey {
			return string(text), nil
		}
		rest = rest[12+size:]
	}
	return "", errors.New("the picture does not say what it was made of")
}

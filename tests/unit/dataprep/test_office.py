"""Word documents as python-docx writes them, and PDFs written here by hand."""

import io
from pathlib import Path

import pytest

from ragray.config_data import DataConfig, DocumentSourceConfig, FaqSourceConfig
from ragray.dataprep.office import docx_outline, pdf_outline
from ragray.dataprep.passages import document_files, read_passages
from ragray.dataprep.read import faq_files, read_rows
from ragray.errors import DataError

docx = pytest.importorskip("docx")
pytest.importorskip("pypdf")

Text = tuple[float, float, float, str]  # x, y, size, text

_TO_UNICODE = """/CIDInit /ProcSet findresource begin 12 dict begin begincmap
1 begincodespacerange <0000> <ffff> endcodespacerange
1 beginbfrange <0000> <ffff> <0000> endbfrange
endcmap CMapName currentdict /CMap defineresource pop end end"""


def pdf_of(pages: list[list[Text]]) -> bytes:
    """A PDF of texts at places, in a font whose codes are UTF-16."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{6 + 2 * n} 0 R' for n in range(len(pages)))}] >>",
        "<< /Type /Font /Subtype /Type0 /BaseFont /F /Encoding /Identity-H "
        "/DescendantFonts [4 0 R] /ToUnicode 5 0 R >>",
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /F /DW 500 "
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        f"<< /Length {len(_TO_UNICODE)} >>\nstream\n{_TO_UNICODE}\nendstream",
    ]
    for n, texts in enumerate(pages):
        shown = "".join(
            f"BT /F {size} Tf 1 0 0 1 {x} {y} Tm <{text.encode('utf-16-be').hex()}> Tj ET\n"
            for x, y, size, text in texts
        )
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {7 + 2 * n} 0 R "
            "/Resources << /Font << /F 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}endstream")
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, 2)
    places = []
    for n, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{n} 0 obj\n{content}\nendobj\n".encode())
    start = out.tell()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode())
    out.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


MANUAL = [
    [
        (50, 750, 20, "Manual"),
        (50, 700, 14, "怎样安装？"),
        (50, 680, 10, "Run the installer and wait"),
        (50, 668, 10, "until it has ended."),
        (50, 600, 14, "What does it cost?"),
        (50, 580, 10, "Plan"),
        (300, 580, 10, "Price"),
        (50, 568, 10, "Free"),
        (300, 568, 10, "0 EUR"),
    ],
    [(50, 750, 10, "More on the next page."), (50, 700, 14, "Who helps?"), (50, 680, 10, "The staff at the desk.")],
]


def test_pdf_headings_are_larger_and_tables_stay_rows() -> None:
    found = [(s.line, s.level, s.title, "".join(s.body)) for s in pdf_outline(pdf_of(MANUAL), "a.pdf").sections]
    assert found[1:] == [
        (1, 1, "Manual", ""),
        (1, 2, "怎样安装？", "Run the installer and wait\nuntil it has ended.\n"),
        (1, 2, "What does it cost?", "| Plan | Price |\n| Free | 0 EUR |\nMore on the next page.\n"),
        (2, 2, "Who helps?", "The staff at the desk.\n"),
    ]


def test_pdf_rows_name_their_page(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_of(MANUAL))
    (file,) = faq_files([FaqSourceConfig(path=str(tmp_path / "a.pdf"))])
    assert [(r.ordinal, r.line, r.question, r.reason) for r in read_rows(file)] == [
        (1, 1, "怎样安装？", ""), (2, 1, "What does it cost?", ""), (3, 2, "Who helps?", ""),
    ]  # fmt: skip


def test_pdf_without_headings_is_searched_for_marks(tmp_path: Path) -> None:
    texts = [
        (50.0, 700.0 - 12 * n, 10.0, t)
        for n, t in enumerate(("Q: One?", "A: First", "and more.", "问：二？", "答：对"))
    ]
    (tmp_path / "a.pdf").write_bytes(pdf_of([texts]))
    (file,) = faq_files([FaqSourceConfig(path=str(tmp_path / "a.pdf"))])
    assert [(r.question, r.answer.strip()) for r in read_rows(file)] == [
        ("One?\n", "First\nand more."), ("二？\n", "对"),
    ]  # fmt: skip


def guide() -> bytes:
    document = docx.Document()
    document.add_heading("Guide", 0)
    document.add_heading("How to install?", 1)
    document.add_paragraph("Run it.")
    document.add_paragraph("one", style="List Bullet")
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ("plan", "price|year", "free", "0"), strict=True):
        cell.text = text
    document.add_heading("怎样使用？", 2)
    document.add_paragraph("按按钮。")
    content = io.BytesIO()
    document.save(content)
    return content.getvalue()


def test_docx_headings_lists_and_tables() -> None:
    found = [(s.line, s.level, s.title, "".join(s.body)) for s in docx_outline(guide(), "a.docx").sections]
    assert found[1:] == [
        (1, 1, "Guide", ""),
        (2, 1, "How to install?", "Run it.\n\n- one\n| plan | price\\|year |\n| free | 0 |\n\n"),
        (6, 2, "怎样使用？", "按按钮。\n\n"),
    ]


def test_documents_keep_the_path_of_titles(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(guide())
    (tmp_path / "b.pdf").write_bytes(pdf_of(MANUAL))
    settings = DataConfig.model_validate({"faq": [{"path": "x"}]})
    passages = read_passages(document_files([DocumentSourceConfig(path=str(tmp_path))]), settings)
    assert [(p.doc_id, p.title) for p in passages] == [
        ("a#1", "How to install?"), ("a#2", "How to install? > 怎样使用？"),
        ("b#1", "Manual > 怎样安装？"), ("b#2", "Manual > What does it cost?"), ("b#3", "Manual > Who helps?"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    sound = guide() if name.endswith("x") else pdf_of(MANUAL)
    for cut in range(0, len(sound), max(1, len(sound) // 40)):
        (tmp_path / name).write_bytes(sound[:cut] + b"\0\xff" + sound[cut + 40 :])
        try:
            (file,) = faq_files([FaqSourceConfig(path=str(tmp_path / name))])
            list(read_rows(file))
        except DataError as error:
            assert name in str(error)

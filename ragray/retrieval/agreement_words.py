"""Words that change what a question asks for: negations, directions, comparisons, question words; English and Chinese.

In: nothing. Out: sets and tables for `agreement`. English words are lower-case and not stemmed; several forms of one
word have one label. They are long lists on purpose: a word that is missing here may change a meaning unseen.
"""

ENGLISH_NOT = frozenset(
    """not no never none nothing nobody nowhere neither nor cannot cant dont doesnt didnt wont isnt arent wasnt werent
    couldnt shouldnt wouldnt hasnt havent without""".split()  # noqa: SIM905
)

# One line: forms of one word, the first of which is its label.
_MARKED = """
except excepted excluding exclude excludes excluded besides apart
instead
unless
only solely just
all every each everything everyone always
any anything
some sometimes partial partially partly
both
either
unable impossible
fail fails failed failing failure
lack lacking missing
from
into onto
before prior preceding earlier
after following afterwards later
since
until till
during while
above over exceeding exceed exceeds
below under beneath
up
down
out outside external
inside within internal
off
between among
against
than
versus vs
more greater additional extra
less fewer
most maximum max highest largest biggest longest best
least minimum min lowest smallest shortest worst
bigger larger
smaller
higher taller
lower
longer
shorter
faster quicker
slower
better
worse
cheaper
newer
older
last final latest
previous previously
next
current currently now
new
old
early
late
enable enables enabled enabling activate activated activating
disable disables disabled disabling deactivate deactivated deactivating
increase increases increased increasing raise raising
decrease decreases decreased decreasing reduce reduces reduced reducing
add adds added adding insert
remove removes removed removing delete deletes deleted deleting
start starts started starting begin begins
stop stops stopped stopping end ends
open opens opened opening
close closes closed closing
lock locks locked locking
unlock unlocks unlocked unlocking
import imports imported importing
export exports exported exporting
upload uploads uploaded uploading
download downloads downloaded downloading
install installs installed installing installation
uninstall uninstalls uninstalled uninstalling
allow allows allowed allowing permit permits permitted accept accepted accepts
deny denies denied block blocked forbid forbidden refuse refused reject rejected decline declined
encrypt encrypted encrypting
decrypt decrypted decrypting
encode encoded encoding
decode decoded decoding
compress compressed compressing
decompress decompressed extract unzip
left
right
top
bottom
front
back
push pushes pushed pushing
pull pulls pulled pulling
send sends sent sending
receive receives received receiving
give gives gave given
get gets got getting
take takes took taken
buy buys bought buying purchase purchased
sell sells sold selling
borrow
lend
pay pays paid paying payment
refund refunded refunds
credit
debit
deposit
withdraw withdrawal withdrawn
input inputs
output outputs
read reads reading
write writes writing wrote
save saves saved saving
load loads loaded loading
restore restored
reset
encourage
prevent prevents prevented preventing avoid avoids
cause causes caused causing
treat treats treatment treatments cure cures
symptom symptoms
diagnose diagnosis diagnosed
must mandatory required require requires necessary need needs needed
should ought
optional optionally
today
tomorrow
yesterday
tonight
morning
afternoon
evening
daily
weekly
monthly
yearly annual annually
male man men boy boys
female woman women girl girls
child children kid kids baby
adult adults
mother mom
father dad
parent parents
husband
wife
public
private
local locally
remote remotely
global globally
online
offline
free
single
double
triple
multiple several many
hot warm
cold cool
north
south
east
west
true
false
positive
negative
same
different differ difference
other another else
again
still
yet
already
too
very
he him himself
his
she herself
her hers
they them themselves
their theirs
you yourself yourselves
your yours
in
on
at
for
with
by
about
and
or
if
can could would might may
will shall
did
was were
had
have has having
pm
am
plus
minus
equal equals
"""
# One line: forms of one word that a question may have in excess, but not in place of another's.
_LINKED = """
i me myself
my mine
we us ourselves
our ours
it itself
its
this these
that those
here
there
to
of
as
"""


def _labels(lines: str) -> dict[str, str]:
    return {form: line.split()[0] for line in lines.strip().splitlines() for form in line.split()}


ENGLISH_MARKED, ENGLISH_LINKED = _labels(_MARKED), _labels(_LINKED)
FIRST_PERSON = frozenset("i me my mine myself we us our ours ourselves".split())  # noqa: SIM905
SECOND_PERSON = frozenset("you your yours yourself yourselves".split())  # noqa: SIM905
ADDRESSED = frozenset(  # after `how can you`, these ask for what the company does
    "help assist contact reach call charge refund support serve answer know find be guarantee protect verify".split()  # noqa: SIM905
)

AUXILIARIES = frozenset(
    """is are was were am be do does did can could will would shall should may might must has have had isn't aren't
    wasn't don't doesn't didn't can't couldn't won't wouldn't shouldn't""".split()  # noqa: SIM905
)
ENGLISH_ASKS = {
    "how": "how", "why": "why", "when": "when", "where": "where", "who": "who", "whom": "who", "whose": "who",
    "what": "what", "which": "what", "reason": "why",
}  # fmt: skip
MEASURES = frozenset("many much long often far old big large tall fast soon high deep wide heavy".split())  # noqa: SIM905
WAYS = (  # a regular expression: ways of asking how without the word
    r"\b(?:is it possible(?= to\b)|is there (?:a|any) way|what(?: is|'s| are) (?:the|a)(?: best| easiest| right)?"
    r" (?:ways?|steps)|what steps|(?:the )?(?:best )?ways?(?= to\b))\b"
)
POLITE = (  # a regular expression: what stands before a question and asks for nothing
    r"\b(?:can|could|would|will) you (?:please )?(?:tell|show|explain to) me (?=how|what|when|where|why|which|who)"
)
MONTHS = frozenset(
    """january february march april may june july august september october november december jan feb apr jun jul aug
    sep sept oct nov dec""".split()  # noqa: SIM905
)
WEEKDAYS = frozenset(["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"])

# (what is asked for, its forms); earlier lines win where two begin at the same place.
CHINESE_ASKS = (
    ("why", "为什么|为何|为啥|怎么会|怎么不|怎么没|怎么还|怎么又|怎么总|怎么老|凭什么|什么原因|原因"),
    ("when", "什么时候|什么时间|何时|几时|几点|哪天|哪年|哪月|哪一年|哪一天|多会儿"),
    ("where", "哪里|哪儿|何处|什么地方|在哪|去哪|到哪"),
    ("who", "谁|何人|哪位|什么人"),
    ("how long", "多久|多长时间|多长"),
    ("how many", "多少|几(?=[个天次年月周台条种位人张份岁])|几种"),
    ("how far", "多远|多高|多大|多快|多重|多深|多宽"),
    ("how", "怎么样|怎么办|怎么|怎样|如何|咋样|咋|什么方法|什么办法|方法|办法|步骤"),
    ("what", "什么|哪些|哪个|哪种|哪|啥|何种"),
    (
        "whether",
        "是不是|能不能|可不可以|会不会|要不要|有没有|行不行|对不对|需不需要|是否|能否|可否|有无|吗",
    ),
)
CHINESE_FILLERS = (  # numerals and signs that count nothing and deny nothing
    "一个|一下|一些|一般|一样|一直|一起|一定|一种|一旦|一致|一切|一共|一边|一面|一点|一时|一会儿?|一名",
    "一位|一步|一条|一台|一张",
    "统一|唯一|万一|同一|之一|单一|进一步|十分|千万|成千上万|五花八门|百科|百度|三方|星期天",
    "差不多|不仅|不但|不过|不断|不管|无论|非常|特别|别人|区别|类别|级别|分别|性别|识别|辨别|否则|未来|莫非",
)
CHINESE_NOT = "不没无未非别勿莫否"
CHINESE_NOT_IN = frozenset(["不得不", "别名", "无线", "非洲", "没收", "否定", "北非", "南非", "告别"])
CHINESE_MARKED = (  # a word with one of these must be in both questions
    "增减升降开关启停上下前后左右内外进出入大小多少高低长短快慢新旧早晚先始终正反阴阳冷热轻重真假"
    "买卖借还收付加删存取男女父母儿夫妻兄弟姐妹南北东西装卸被把比向给由从到往自"
    "最更只仅都全每各除必须允禁许拒同异再又另仍已曾将昨今明"
    "负超逾满晨午夜"
)
# One line: forms of one word, the first of which is its label; the word itself, not a sign in other words.
CHINESE_MARKED_WORDS = _labels("""
你 您 你们
他 他们
她 她们
它 它们
或 或者 还是
对
为
替 代替
让 叫 使
如果 若
因为
""")
CHINESE_LINKED = _labels("""
我 我们 咱们 咱
自己
这 这个 这些 这样 这里 这儿
那 那个 那些 那样 那里 那儿
了
和 与 及 跟 以及
能 可以 可 能够
会
要 需要 应该 应 该
""")
CHINESE_MODALS = {
    form: form[0]
    for form in "能不能 能否 会不会 要不要".split()  # noqa: SIM905
} | {"可不可以": "能", "可否": "能", "需不需要": "要"}
CHINESE_PLAIN = frozenset(  # words with such a sign that say nothing of the kind
    "进行 大家 东西 先生 小姐 对于 关于 由于 明显 说明 证明 声明 生存 大概 大约 开发 启发 如下 以及".split()  # noqa: SIM905
)

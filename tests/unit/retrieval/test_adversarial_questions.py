"""Pairs of questions that look alike and ask for different things: none may ever share an answer.

Written by hand: numbers, units, versions, dates, negations, swapped and replaced names, directions, comparisons,
operators, signs, pronouns, prepositions, tenses, question words. A pair hits where the readings agree and the cosine
reaches the lowest threshold that is ever used.
"""

import pytest

from ragray.config import RetrievalConfig
from ragray.retrieval.agreement import agree
from ragray.retrieval.false_hits import LEAST
from ragray.retrieval.index import HybridIndex
from ragray.retrieval.similar import similarity, wording_of
from ragray.retrieval.writing import build_index
from ragray.schema import Passage

ENGLISH = r"""
How do I train with 4 GPUs? | How do I train with 8 GPUs?
How do I train with four GPUs? | How do I train with eight GPUs?
How do I train with four GPUs? | How do I train with 8 GPUs?
How long does the server wait for twenty five seconds? | How long does the server wait for twenty six seconds?
Does it need 16 GB of memory? | Does it need 16 MB of memory?
Is the limit 30 seconds per request? | Is the limit 30 minutes per request?
What changed in version 2.60.1? | What changed in version 2.60.2?
What changed in version 2.6? | What changed in version 2.60?
How do I install Python 3.11? | How do I install Python 3.12?
Which tax rate applies to 10% of the income? | Which tax rate applies to 20% of the income?
Is the fee $50 for members? | Is the fee €50 for members?
How do I quantize a model to 4bit? | How do I quantize a model to 8bit?
What is the second step of the setup? | What is the third step of the setup?
Can I pay twice a month? | Can I pay once a month?
What was announced on May 3, 2024? | What was announced on May 4, 2024?
What was announced on 2024-05-03? | What was announced on 2024-03-05?
What happened in March 2020 in the market? | What happened in April 2020 in the market?
Is the office open on Monday? | Is the office open on Sunday?
Which files are deleted by the cleanup job? | Which files are not deleted by the cleanup job?
Can I use the index with embeddings? | Can I use the index without embeddings?
Why does the server start on boot? | Why doesn't the server start on boot?
Why can the worker reach the head node? | Why can't the worker reach the head node?
Who may see the report? | Who may never see the report?
Is it safe to run as root? | Is it unsafe to run as root?
Which models support GPU but not CPU? | Which models support CPU but not GPU?
Which plans include support except the free plan? | Which plans include support and the free plan?
How do I copy files from S3 to local disk? | How do I copy files to S3 from local disk?
How do I convert a list to a string? | How do I convert a string to a list?
How do I move data from Postgres to MySQL? | How do I move data from MySQL to Postgres?
Did Germany beat Brazil in the final? | Did Brazil beat Germany in the final?
Is Ray faster than Spark? | Is Spark faster than Ray?
How do I call Java from Python? | How do I call Python from Java?
How do I enable the cache? | How do I disable the cache?
How do I install the driver? | How do I uninstall the driver?
How do I increase the batch size? | How do I decrease the batch size?
How do I import the database? | How do I export the database?
How do I upload a file to the bucket? | How do I download a file to the bucket?
Should I take the pill before meals? | Should I take the pill after meals?
What is the maximum length of an answer? | What is the minimum length of an answer?
Does it cost more than last year? | Does it cost less than last year?
How do I scale up the deployment? | How do I scale down the deployment?
What does the server log above level info? | What does the server log below level info?
How do I log in with Google? | How do I log in with GitHub?
What is the capital of Austria? | What is the capital of Australia?
How do I set train.lora.rank? | How do I set train.lora.alpha?
What does --config do? | What does --set do?
What does `a.txt` contain? | What does `b.txt` contain?
What does "fast" mode mean? | What does "safe" mode mean?
How do I compile C code? | How do I compile C++ code?
How do I compile C++ code? | How do I compile C# code?
When was the index built? | How was the index built?
Where is the index built? | Why is the index built?
How many replicas does the server start? | How does the server start replicas?
Who built the index? | When was the index built?
How long does training take? | How much memory does training take?
Is the answer always cached? | Is the answer never cached?
Do all replicas share the cache? | Do some replicas share the cache?
Is the deposit refunded to the buyer? | Is the deposit refunded to the seller?
Can I sell shares within a year? | Can I buy shares within a year?
What is today's exchange rate? | What was yesterday's exchange rate?
Must I register the company first? | Can I register the company first?
Can the landlord keep the tenant's deposit? | Can the tenant keep the landlord's deposit?
Is the discount given when price > 5? | Is the discount given when price < 5?
Is the discount given when price >= 5? | Is the discount given when price > 5?
What does a == b return? | What does a != b return?
What does a = b do? | What does a == b do?
What does !ready mean? | What does ready mean?
What is 7 + 3? | What is 7 - 3?
What is 7 * 3? | What is 7 / 3?
What is 5! in maths? | What is 5 in maths?
What is a-b in Python? | What is a/b in Python?
What does x && y do? | What does x || y do?
What does ; do in bash? | What does , do in bash?
What does [] make? | What does {} make?
Does it work at -5 degrees? | Does it work at 5 degrees?
Is the fee .5 percent? | Is the fee 5 percent?
Is the fee 5€ for members? | Is the fee 5£ for members?
Is the fee $5M for members? | Is the fee €5M for members?
Is the link 100 Mb fast? | Is the link 100 MB fast?
Which regex matches \d in a line? | Which regex matches \D in a line?
Which regex matches `\w` in a line? | Which regex matches `\W` in a line?
Is vitamin A good for the skin? | Is a vitamin good for the skin?
Do you ship to the US? | Do you ship to us?
Does WHO publish the guideline? | Does who publish the guideline?
Who runs IT at the office? | Who runs it at the office?
Does the shop open at 5 am? | Does the shop open at 5 pm?
Does the shop open at 5am? | Does the shop open at 5pm?
Does the shop open at 5:30 am? | Does the shop open at 5:30 pm?
Does the shop open at 5 a.m. on Monday? | Does the shop open at 5 p.m. on Monday?
Does the shop open at five am? | Does the shop open at five pm?
Can he use my card? | Can I use his card?
Can he use my card? | Can I use my card?
Can you use my card? | Can I use my card?
Did you lose your card? | Did you lose my card?
Does he owe her money? | Does she owe him money?
How can you help? | How can I help?
How do you delete my data? | How do I delete my data?
Can it read the file? | Can I read the file?
How do I sign in to the parcel page? | How do I sign for the parcel page?
Can I pay by invoice? | Can I pay the invoice?
Does the plan include chat and mail? | Does the plan include chat or mail?
Is it an introduction to the Romans? | Is it an introduction of the Romans?
Is this card valid? | Is that card valid?
Do they ship here? | Do they ship there?
Can I cancel the order? | Will I cancel the order?
Do I pay a deposit? | Did I pay a deposit?
Is the server down? | Was the server down?
Why won't the server start? | Why didn't the server start?
"""

CHINESE = r"""
用4个GPU怎么训练？ | 用8个GPU怎么训练？
用四个GPU怎么训练？ | 用八个GPU怎么训练？
用两台机器怎么部署？ | 用三台机器怎么部署？
内存需要16GB吗？ | 内存需要16MB吗？
超时时间是30秒吗？ | 超时时间是30分钟吗？
2.60.1版本改了什么？ | 2.60.2版本改了什么？
第二步怎么做？ | 第三步怎么做？
罚款二十万元怎么交？ | 罚款三十万元怎么交？
百分之五的利息合法吗？ | 百分之六的利息合法吗？
2024年5月3日发生了什么？ | 2024年3月5日发生了什么？
五年以上的工龄怎么算？ | 五年以下的工龄怎么算？
哪些文件会被删除？ | 哪些文件不会被删除？
为什么服务能启动？ | 为什么服务不能启动？
有合同怎么讨薪？ | 没有合同怎么讨薪？
未成年人签的合同有效吗？ | 成年人签的合同有效吗？
合同有效怎么办？ | 合同无效怎么办？
非法经营怎么处罚？ | 合法经营怎么处罚？
哪些型号支持GPU但不支持CPU？ | 哪些型号支持CPU但不支持GPU？
除了周末都上班吗？ | 周末都上班吗？
怎么把列表转换成字符串？ | 怎么把字符串转换成列表？
怎么从MySQL迁移到TiDB？ | 怎么从TiDB迁移到MySQL？
Ray比Spark快吗？ | Spark比Ray快吗？
甲方起诉乙方怎么办？ | 乙方起诉甲方怎么办？
父亲可以起诉儿子吗？ | 儿子可以起诉父亲吗？
怎样开启缓存？ | 怎样关闭缓存？
怎样增加副本？ | 怎样减少副本？
怎么安装驱动？ | 怎么卸载驱动？
怎么导入数据库？ | 怎么导出数据库？
饭前吃药可以吗？ | 饭后吃药可以吗？
最大长度是多少？ | 最小长度是多少？
血压高怎么办？ | 血压低怎么办？
租客提前退租怎么办？ | 房东提前收房怎么办？
借钱给别人怎么写借条？ | 向别人借钱怎么写借条？
什么时候缴纳社保？ | 怎么缴纳社保？
在哪里办理身份证？ | 为什么办理身份证？
谁可以申请补助？ | 什么时候可以申请补助？
离婚多久可以再婚？ | 离婚为什么不能再婚？
北京的社保怎么办理？ | 南京的社保怎么办理？
《劳动法》怎么规定加班？ | 《公司法》怎么规定加班？
男方要求离婚怎么办？ | 女方要求离婚怎么办？
必须交定金吗？ | 可以交定金吗？
昨天的订单怎么查？ | 今天的订单怎么查？
气温-5度能启动吗？ | 气温5度能启动吗？
气温零下5度能启动吗？ | 气温5度能启动吗？
价格>5元有优惠吗？ | 价格<5元有优惠吗？
价格大于5元有优惠吗？ | 价格小于5元有优惠吗？
价格超过5元有优惠吗？ | 价格不到5元有优惠吗？
a==b是什么意思？ | a!=b是什么意思？
7+3等于多少？ | 7-3等于多少？
正则\d匹配什么？ | 正则\D匹配什么？
他能用我的卡吗？ | 我能用他的卡吗？
他能用我的卡吗？ | 我能用我的卡吗？
你的密码怎么改？ | 我的密码怎么改？
她欠他钱怎么办？ | 他欠她钱怎么办？
上午5点开门吗？ | 下午5点开门吗？
凌晨5点开门吗？ | 5点开门吗？
五天内可以退货吗？ | 五天外可以退货吗？
三个月前办的卡还能用吗？ | 三个月后办的卡还能用吗？
我能退款吗？ | 我要退款吗？
我能不能退款？ | 我要不要退款？
套餐包括邮件和电话吗？ | 套餐包括邮件或电话吗？
这张卡有效吗？ | 那张卡有效吗？
我付款了吗？ | 我要付款吗？
公司替员工缴税吗？ | 公司让员工缴税吗？
"""

SAME = """
How do I install ragray? | How can I install ragray?
How do I install ragray? | How to install ragray
How do I train with 4 GPUs? | How can I train with four GPUs?
What is the limit of 8 GB memory? | What's the limit of 8GB memory?
Is it possible to export the database? | How do I export the database?
How do I log in with GitHub? | how can you log in with github
怎么安装驱动？ | 如何安装驱动
用4个GPU怎么训练？ | 用四个GPU如何训练？
请问怎样开启缓存呢？ | 如何开启缓存？
为什么服务不能启动？ | 为何服务不能启动
How do I log in? | How do I log in!
How do I log in with Google? | How to log in with Google?
How do I reset my password? | How can I reset my password
How do I reset my password? | how to reset password
I've lost my card, how do I block it? | I have lost my card; how do I block it?
How do I go from A to B? | How to go from A to B
Where can I find the invoice? | Where do I find the invoice?
Does the shop open at 5 am? | Does the shop open at 5am?
Is the fee 50 % of the price? | Is the fee 50% of the price?
Is the fee €5 for members? | Is the fee 5 € for members?
Can you tell me how to export the database? | How do I export the database?
What is the price of 5 kg (sea freight)? | What's the price of 5kg (sea freight)?
我的密码怎么改？ | 我的密码如何改
我怎么安装驱动？ | 怎么安装驱动！
价格大于5元有优惠吗？ | 价格大于五元有优惠吗
能不能退款？ | 能否退款
"""


def pairs(text: str) -> list[tuple[str, str]]:
    return [(one.strip(), other.strip()) for one, other in (line.split(" | ") for line in text.strip().splitlines())]


@pytest.fixture(scope="module")
def of_questions(tmp_path_factory: pytest.TempPathFactory) -> HybridIndex:
    """An index of all these questions, so that no word is unknown to it."""
    texts = [text for group in (ENGLISH, CHINESE, SAME) for pair in pairs(group) for text in pair]
    folder = tmp_path_factory.mktemp("questions")
    passages = [Passage(str(n), text, text, "en", "a.jsonl", "faq") for n, text in enumerate(dict.fromkeys(texts))]
    build_index(passages, RetrievalConfig(), folder)
    return HybridIndex.open(folder)


def test_there_are_enough_of_them() -> None:
    assert len(pairs(ENGLISH)) >= 100 and len(pairs(CHINESE)) >= 60


@pytest.mark.parametrize(("one", "other"), pairs(ENGLISH) + pairs(CHINESE))
def test_an_adversarial_pair_never_hits(of_questions: HybridIndex, one: str, other: str) -> None:
    first, second = wording_of(of_questions, one), wording_of(of_questions, other)
    assert similarity(first, second) == similarity(second, first) < min(LEAST.values())


@pytest.mark.parametrize(("one", "other"), pairs(SAME))
def test_a_question_in_other_words_still_hits(of_questions: HybridIndex, one: str, other: str) -> None:
    first, second = wording_of(of_questions, one), wording_of(of_questions, other)
    assert similarity(first, second) >= max(LEAST.values())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Is the security deposit paid to the tenant", "Is the security deposit paid to the landlord", False),
        ("Is the security deposit paid to the tenant", "Is the full security deposit paid to the tenant", True),
        ("合同的押金退给租客吗", "合同的押金退给房东吗", False),
    ],
)
def test_a_word_in_place_of_another_disagrees_and_one_more_word_does_not(
    of_questions: HybridIndex, one: str, other: str, expected: bool
) -> None:
    first, second = (wording_of(of_questions, text).reading for text in (one, other))
    assert agree(first, second) == agree(second, first) == expected

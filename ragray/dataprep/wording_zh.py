"""Other ways to ask a Chinese question, by rule.

In: a question and a source of randomness. Out: the question in other words, or unchanged where the rule does
not apply. Each function is one method of `dataprep.augment`.
"""

from __future__ import annotations

import re
from random import Random

from ragray.dataprep.wording import apply_rules, items, pairs, replace_some, rules, word_table

_HOW = "(?:怎么|如何|怎样|怎么样|应该怎么|应该如何|该怎么|该如何)"
# A kind of question, and below it forms that ask the same; \1 is its topic.
_RULES = rules(
    r"""
HOW(?:才能)?([^是办].+)
    怎样才能\1
    \1的方法是什么
    想\1，应该怎么做
    \1要怎么操作
    \1有哪些步骤

(.+?)HOW(?:做|办|处理|解决)
    如何处理\1
    \1该如何应对
    遇到\1怎么解决
    \1有什么办法

(.+?)HOW治疗
    \1的治疗方法有哪些
    怎样治疗\1
    \1用什么方法治
    得了\1要怎么治

(?!(?:我们?|咱们|你们?|您|用户|大家)HOW)(.+?)HOW([^是样].+)
    \1，怎样才能\2
    如何\2\1
    \1的\2方法是什么

什么是(.+)
    \1是什么
    \1指的是什么
    怎么理解\1
    请解释一下\1
    \1是什么意思

(.+?)(?:是什么|是什么意思|指什么)
    什么是\1
    \1指的是什么
    怎么理解\1
    介绍一下\1

(?:为什么|为何)(.+)
    \1是什么原因
    \1的原因是什么
    是什么导致\1
    \1，这是怎么回事

(.+?)(?:是什么原因|是怎么回事|的原因是什么)
    为什么\1
    \1是怎么引起的
    \1，原因在哪里

(?!.*(?:哪|什么|怎|多少|几))(?:能不能|可不可以|可以|能否|是否可以|能)(.+?)吗?
    可不可以\1
    是否可以\1
    有没有办法\1
    \1行不行

(?!.*(?:哪|什么|怎|多少|几))(.+?)(?:能不能|可不可以|可以|能否|是否可以|能)(.+?)吗?
    \1可不可以\2
    \1是否可以\2
    \1\2行不行

(.+?)有(?:哪些|什么)(.+)
    \1的\2有哪些
    \1都有哪些\2
    列举一下\1的\2
    \1包括哪些\2

(?:在)?(?:哪里|哪儿|什么地方)(.+)
    \1在哪里
    \1的位置是哪里
    要\1，去什么地方

(.+?)在(?:哪里|哪儿|什么地方)
    在哪里可以找到\1
    \1放在什么位置
    怎样找到\1

(.+?)需要(?:多久|多长时间)
    \1要花多长时间
    \1得等多久

(.+?)需要(.+?)吗
    \1要不要\2
    \1必须\2吗
    \1是不是一定要\2

(.+?)支持(.+?)吗
    \1能用\2吗
    \1是否支持\2
    \2在\1里能用吗

(.+?)(?:多少|几个)(.*)
    \1的数量是多少\2
    \1几\2

(.+?)有什么(?:用|作用)
    \1是干什么用的
    \1的作用是什么
    为什么要用\1

(.+?)和(.+?)(?:有什么区别|的区别是什么|有何不同)
    \1与\2有哪些不同
    \2和\1的差别在哪里
    怎么区分\1和\2
""".replace("HOW", _HOW)
)

_SYNONYMS = word_table(
    """
安装: 装, 部署; 启动: 开启, 运行起来; 停止: 关闭, 终止; 运行: 执行, 跑; 修改: 更改, 调整; 设置: 配置, 设定
配置: 设置; 查看: 查询, 看到; 删除: 清除, 移除; 使用: 用, 采用; 增加: 提高, 加大; 减少: 降低, 减小
错误: 报错, 异常; 报错: 出错, 提示错误; 问题: 毛病, 情况; 方法: 办法, 方式; 原因: 缘由, 起因
作用: 用处, 功能; 需要: 要, 得; 支持: 兼容; 文件夹: 目录; 目录: 文件夹; 文件: 档案; 参数: 选项; 选项: 参数
默认: 缺省; 速度: 快慢; 机器: 电脑, 主机; 训练: 微调; 微调: 训练; 回答: 答复, 答案; 答案: 回答; 问句: 提问
检索: 搜索, 查找; 搜索: 检索; 保存: 存储, 存; 失败: 不成功, 出错; 选择: 挑选; 限制: 上限; 治疗: 医治, 治
症状: 表现, 征兆; 患者: 病人; 病人: 患者; 吃什么药: 用什么药, 服什么药; 预防: 防止; 注意: 留意; 饮食: 吃的
严重: 厉害; 孩子: 小孩; 小孩: 孩子; 检查: 查; 多久: 多长时间; 哪里: 什么地方
为什么: 为何, 怎么会; 怎么: 如何, 怎样; 如何: 怎么, 怎样; 怎样: 如何, 怎么; 是否: 是不是; 可以: 能
集群: 机群; 数据: 资料
"""
)
_SYNONYM = re.compile("|".join(sorted(_SYNONYMS, key=lambda word: (-len(word), word))))

_POLITE = items("""
请问{}; 你好，{}; 您好，请问{}; 麻烦问一下，{}; 想请教一下，{}; 帮我看看，{}; {}谢谢！; 请教一个问题：{}
""")
_COLLOQUIAL = pairs(
    r"""
为什么: 为啥; 为何: 为啥; 是什么: 是啥; 什么: 啥; 怎么办: 咋办; 怎么: 咋; 如何: 咋; 怎样: 咋样
多少: 多少来着; 哪里: 哪儿; 可以吗: 行不; 能不能: 能不; 没有: 没; 吗: 不
"""
)
_FILLERS = ("啊", "呢", "呀", "哈")
_FUNCTION = re.compile(
    "(?<!目)的(?!确)|了(?!解)|(?<![超通经])过(?![期滤程拟])|(?<!申)请(?!求)|把|将(?!来)|(?<!不)会(?!不会|[话员议计])"
    "|应该|(?<!不)可以|一下|一个|吧|呢|啊|呀"
)
_FUNCTION_WORDS = re.compile(
    "请问|怎么样|怎么办|怎么|怎样|如何|什么是|是什么|有什么|什么|为什么|为何|哪里|哪些|哪个|多少|是否|是不是|能不能|可不可以|可以|"
    "应该|需要|才能|能够|的时候|一下|这个|那个|有没有|有哪些|吗|呢|啊|吧|的|了|是|有|在|我|你|您|要|会|能|和|与|把|被|都|就|也|还"
)
_SUBJECT = re.compile(
    "(?:我们|咱们|我|你们|您|你|用户|大家|有人|这个|那个|它)(?:自己)?(?:想要|想|要|应该|该|得)?(?=怎|如何|能|可|需|是否|有没有|为|什么|在)"
    "|(?<=怎么)(?:我们|我|你|您)|(?<=可以)(?:让我|让它)|^(?:我们|我)(?:想要|想|要)(?:问一下|知道|了解)?"
)
_CONFUSED = dict(
    pairs(
        """
的: 地; 得: 的; 在: 再; 再: 在; 做: 作; 作: 做; 账: 帐; 帐: 账; 像: 象; 以: 已; 已: 以
置: 制; 制: 置; 型: 形; 形: 型; 练: 炼; 样: 洋; 装: 桩; 录: 陆; 配: 佩; 索: 锁; 据: 剧; 治: 至
疗: 聊; 效: 校; 用: 拥; 问: 闻
"""
    )
)
_HAN_PAIR = re.compile("[\u4e00-\u9fff]{2}")
_SHORTEST = 4  # characters that still ask something
_PUNCTUATION = "？?！!。. "


def pattern(question: str, chance: Random) -> str:
    """Another form of the same kind of question: `X怎么做` becomes `如何处理X`."""
    other = apply_rules(_RULES, _bare(question), chance)
    return other + "？" if other else question


def synonyms(question: str, chance: Random) -> str:
    """One to three words replaced by others of the same meaning."""
    return replace_some(question, list(_SYNONYM.finditer(question)), _SYNONYMS, chance)


def politeness(question: str, chance: Random) -> str:
    """With words of courtesy around it."""
    return chance.choice(_POLITE).format(question)


def colloquial(question: str, chance: Random) -> str:
    """As people type to each other."""
    applicable = [(found, other) for found, other in _COLLOQUIAL if found in question]
    text = question
    if applicable:
        found, other = chance.choice(applicable)
        text = text.replace(found, other, 1)
    ending = chance.choice(("", *_FILLERS)) if not text.rstrip(_PUNCTUATION).endswith(("不", "吗", "呢")) else ""
    return _bare(text) + ending


def dropped_words(question: str, chance: Random) -> str:
    """Without some of its function words."""
    places = list(_FUNCTION.finditer(question))
    chosen = set(chance.sample(range(len(places)), min(len(places), chance.randint(1, 3))))
    for number in sorted(chosen, reverse=True):
        question = question[: places[number].start()] + question[places[number].end() :]
    return _bare(question)


def word_order(question: str, chance: Random) -> str:
    """With the asking part first, or its clauses exchanged."""
    bare = _bare(question)
    clauses = re.split("[，,]", bare)
    if len(clauses) >= 2 and all(clause.strip() for clause in clauses):
        return "，".join([clauses[-1], *clauses[:-1]]) + "？"
    match = re.fullmatch(rf"(.{{2,}}?(?<!应))({_HOW}.{{1,}}|是什么.*|有哪些.*|在哪里.*|需要.+)", bare)
    return f"{match[2]}，{match[1]}？" if match else question


def keywords(question: str, chance: Random) -> str:
    """The content words alone, as typed into a search box."""
    words = _FUNCTION_WORDS.sub(" ", re.sub("[，。？！：；、（）,?!:;()]", " ", question)).split()
    return " ".join(words) if len("".join(words)) >= 2 else question


def omitted_subject(question: str, chance: Random) -> str:
    """Without the one who asks: `我应该怎么安装` becomes `怎么安装`; a question without one is left as it is."""
    bare = _SUBJECT.sub("", question, count=1).lstrip("，, ")
    return bare if bare != question and len(bare) >= _SHORTEST else question


def typo(question: str, chance: Random) -> str:
    """With one character replaced by another that sounds alike, or two exchanged."""
    places = [n for n, char in enumerate(question) if char in _CONFUSED]
    if places:
        at = chance.choice(places)
        return question[:at] + _CONFUSED[question[at]] + question[at + 1 :]
    pairs = [match.start() for match in _HAN_PAIR.finditer(question)]
    if not pairs:
        return question
    at = chance.choice(pairs)
    return question[:at] + question[at + 1] + question[at] + question[at + 2 :]


def _bare(question: str) -> str:
    return question.strip().rstrip(_PUNCTUATION).strip()

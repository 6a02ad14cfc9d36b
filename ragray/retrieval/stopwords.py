"""Function and question words that say nothing about the subject, English and Chinese.

In: nothing. Out: two sets of lower-case words, compared before stemming. Short lists on purpose: a word
that can be a subject ("make", "set", "no", "not", "run") stays.
"""

ENGLISH = frozenset(
    """
    a about am an and any are as at be been being but by can could did do does doing for from had has have having he
    her here him his how i if in into is it its just may me might my of on or our ours shall she should so some
    such than that the their them then there these they this those to too us was we were what when where which
    who whom whose why will with would you your yours
    """.split()  # noqa: SIM905
)

CHINESE = frozenset(
    """
    的 了 吗 呢 吧 啊 呀 么 嘛 地 得 着 是 在 和 与 及 或 而 也 就 都 还 又 把 被 让 给 对 从 向 于 以 为 之 其 此 该 这
    那 哪 我 你 您 他 她 它 我们 你们 他们 它们 自己 有 没 个 些 几 谁 会 能 要 想 请 请问
    怎么 怎样 怎么样 怎么办 如何 什么 为什么 为何 哪些 哪个 哪里 哪儿 多少 是否 是不是
    能否 能不能 可不可以 可以 可否
    有没有 这个 那个 这些 那些 这样 那样 一个 一下 一些 以及 或者 还是 如果 因为 所以 但是 应该 需要 进行
    """.split()  # noqa: SIM905
)

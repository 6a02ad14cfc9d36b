"""Product names and technical terms in the other language, as bilingual people mix them.

In: a question and a source of randomness. Out: the question with one or two of its terms in the other language.
"""

from __future__ import annotations

import re
from random import Random

from ragray.dataprep.wording import pairs

_TERMS = pairs(
    """
训练: training; 训练: train; 微调: fine-tuning; 微调: fine-tune; 索引: index; 检索: retrieval; 搜索: search
模型: model; 数据: data; 数据集: dataset; 数据库: database; 服务: service; 服务器: server; 部署: deployment
部署: deploy; 引擎: engine; 量化: quantization; 量化: quantize; 权重: weights; 缓存: cache; 集群: cluster
节点: node; 显存: VRAM; 内存: memory; 线程: thread; 进程: process; 端口: port; 配置: config; 参数: parameter
参数: parameters; 日志: log; 日志: logs; 报错: error; 错误: error; 文档: document; 文档: documents; 答案: answer
提示词: prompt; 适配器: adapter; 评估: evaluation; 指标: metric; 指标: metrics; 测试集: test set; 下载: download
安装: install; 升级: upgrade; 密码: password; 账号: account; 账户: account; 登录: login; 文件夹: folder
文件: file; 文件: files; 网络: network; 浏览器: browser; 接口: API; 插件: plugin; 版本: version; 更新: update
备份: backup; 用户: user; 用户: users; 邮箱: email; 链接: link; 订单: order; 退款: refund; 优惠券: coupon
令牌: token; 批次: batch; 学习率: learning rate; 检查点: checkpoint; 损失: loss; 向量: vector; 脚本: script
命令: command; 容器: container; 镜像: image; 磁盘: disk; 屏幕: screen; 键盘: keyboard; 打印机: printer
视频: video; 照片: photo; 网站: website; 应用: app; 设置: settings; 管理员: admin; 权限: permission; 许可证: license
负样本: negatives; 分词器: tokenizer; 超时: timeout; 延迟: latency; 吞吐量: throughput; 显卡: GPU; 处理器: CPU
微信: WeChat; 支付宝: Alipay; 淘宝: Taobao; 脸书: Facebook; 谷歌: Google; 微软: Microsoft; 苹果: Apple
亚马逊: Amazon; 推特: Twitter; 安卓: Android; 蓝牙: Bluetooth; 英伟达: NVIDIA; 英特尔: Intel; 油管: YouTube
"""
)
_ENGLISH: dict[str, list[str]] = {}
_CHINESE: dict[str, str] = {}
for _zh, _en in _TERMS:
    _ENGLISH.setdefault(_zh, []).append(_en)
    _CHINESE.setdefault(_en.lower(), _zh)

_ANY_ENGLISH = "|".join(re.escape(term) for term in sorted(_CHINESE, key=lambda term: (-len(term), term)))
_ENGLISH_TERM = re.compile(rf"(?<![A-Za-z0-9_./-])(?:{_ANY_ENGLISH})(?![A-Za-z0-9_/-]|\.[A-Za-z])", re.IGNORECASE)
_CHINESE_TERM = re.compile("|".join(sorted(_ENGLISH, key=lambda term: (-len(term), term))))
_EDGE = re.compile("(?<=[\u4e00-\u9fff])(?=[A-Za-z])|(?<=[A-Za-z])(?=[\u4e00-\u9fff])")


def switch(question: str, chance: Random) -> str:
    """One or two terms in the other language: English ones in Chinese, and Chinese ones in English."""
    places = [*_CHINESE_TERM.finditer(question), *_ENGLISH_TERM.finditer(question)]
    chosen = chance.sample(places, min(len(places), chance.randint(1, 2)))
    spaced = chance.random() < 0.5  # some people put a space between the scripts, some do not
    for match in sorted(chosen, key=lambda match: -match.start()):
        other = _CHINESE.get(match[0].lower()) or chance.choice(_ENGLISH[match[0]])
        question = question[: match.start()] + other + question[match.end() :]
    return _EDGE.sub(" ", question) if chosen and spaced else question

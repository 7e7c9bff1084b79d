"""The Chinese stories: something is lost, wished for, rescued, or cooked for somebody. Notation: `story_notation`.

What must agree: 他, 她 or 它 with the hero; the measure word of a thing each time it is counted or pointed at;
weather, hour, tool, place, helper and temper as in the English edition.

96,199,936 stories, 16.920 nats each.
"""

LEXICON = """
hero | mw | noun | ta
    2 小禾 | 个 | 女孩 | 她
    2 朵朵 | 个 | 女孩 | 她
    2 阿木 | 个 | 男孩 | 他
    2 豆豆 | 个 | 男孩 | 他
    团团 | 只 | 小狐狸 | 它
    墩墩 | 头 | 小熊   | 它
    球球 | 只 | 小刺猬 | 它
    慢慢 | 只 | 小乌龟 | 它

trait
    孤单
    胆小
    贪睡
    爱生气

weather | noun
    刮风 | 风
    下雨 | 雨
    起雾 | 雾
    下雪 | 雪

time | span
    早晨 | 天
    下午 | 天
    傍晚 | 晚

hour | after | dark
    中午         | 早晨      | no
    太阳偏西时   | 下午      | no
    太阳下山时   | 早晨,下午 | yes
    月亮升起时   | 傍晚      | yes
    半夜里       | 傍晚      | yes

helper | mw | look
    山羊   | 只 | 白胡子
    乌鸦   | 只 | 聪明的
    蜗牛   | 只 | 赶路的
    老牛   | 头 | 好心的
    毛驴   | 头 | 驮着盐的
    鲤鱼   | 条 | 会说话的
    船夫   | 位 | 年轻的
    铁匠   | 位 | 爱笑的

thing | mw | look | ruin
    风筝 | 只 | 红色的 | 破了一个洞
    鞋子 | 只 | 左脚的 | 里面坐着一只癞蛤蟆
    雨伞 | 把 | 黄色的 | 只剩下骨架
    围巾 | 条 | 蓝色的 | 打了九个结
    帽子 | 顶 | 草编的 | 成了小鸟的窝
    笛子 | 支 | 竹子做的 | 吹不响了
    图画书 | 本 | 心爱的 | 湿透了
    铃铛 | 个 | 银色的 | 摇不响了

nest
    老槐树上
    草堆里
    水井边
    南瓜地里
    瀑布后面

wish | bare | past | result | dark
    看一看大海   | 看到大海     | 看到了大海     | 大海比天空还要大     | yes,no
    敲一敲大钟   | 敲响大钟     | 敲响了大钟     | 钟声连石像都吵醒了   | yes,no
    摸一摸月亮   | 摸到月亮     | 摸到了月亮     | 月亮像牛奶一样凉     | yes
    听星星唱歌   | 听到星星唱歌 | 听到了星星唱歌 | 那歌声像雨点落在瓦上 | yes
    见一见老龙   | 见到老龙     | 见到了老龙     | 老龙只想喝一杯茶     | yes,no
    尝一尝金梨   | 尝到金梨     | 尝到了金梨     | 金梨有初雪的味道     | yes,no
    读一读天书   | 读到天书     | 读到了天书     | 天书里写的全是笑话   | yes,no
    闻一闻蓝玫瑰 | 闻到蓝玫瑰   | 闻到了蓝玫瑰   | 蓝玫瑰有夏天的香气   | yes,no

trouble | at | past
    大河 | 来到一条大河边         | 过了河
    高墙 | 来到一堵高墙下         | 翻过了墙
    山洞 | 来到一个黑山洞前       | 穿过了山洞
    木门 | 来到一扇上锁的木门前   | 打开了门
    巨人 | 遇上一个饿肚子的巨人   | 喂饱了巨人

tool | mw | fits | fail
    小船 | 条 | 大河 | 漏水了
    木筏 | 只 | 大河 | 散架了
    梯子 | 架 | 高墙 | 太短了
    绳子 | 根 | 高墙 | 断了
    灯笼 | 盏 | 山洞 | 灭了
    蜡烛 | 支 | 山洞 | 烧完了
    钥匙 | 把 | 木门 | 对不上锁
    铁丝 | 根 | 木门 | 弯了
    热汤 | 锅 | 巨人 | 太烫了
    烧饼 | 张 | 巨人 | 太小了

foundling | mw | look | woe | need | deed
    星星   | 颗 | 掉下来的 | 冷得发不了光 | 冷 | 一闪一闪地亮了
    萤火虫 | 只 | 小小的   | 冷得点不亮灯 | 冷 | 提起了绿灯笼
    蛋     | 枚 | 大大的   | 冷得孵不出来 | 冷 | 裂开了一道缝
    麻雀   | 只 | 灰色的   | 饿得唱不出歌 | 饿 | 唱起了歌
    小猫   | 只 | 没人要的 | 饿得叫不出声 | 饿 | 打起了呼噜
    云     | 朵 | 迷路的   | 渴得下不了雨 | 渴 | 下起了小雨
    种子   | 粒 | 奇怪的   | 渴得发不了芽 | 渴 | 发出了嫩芽

gift | for
    一条毛毯 | 冷
    一双手套 | 冷
    一勺蜂蜜 | 饿
    一碗米粥 | 饿
    一杯清茶 | 渴
    一滴露水 | 渴

dish | made | rest
    苹果饼 | 烤了一张苹果饼 | 半张饼
    饺子   | 包了一盘饺子   | 半盘饺子
    包子   | 蒸了一笼包子   | 半笼包子
    米糕   | 做了一块米糕   | 半块糕
    面条   | 擀了一碗面条   | 半碗面

kin
    奶奶
    爷爷
    舅舅
"""

RULES = """
story
    <opening><plot>

opening
    3 一个{+weather}的{+time}，有一{+hero.mw}叫{hero}的{hero.noun}<start>。
    3 {+hero}是一{hero.mw}{+trait}的{hero.noun}。一个{+weather}的{+time}，{hero.ta}<start>。
    4 一个{+weather}的{+time}，{+trait}的{+hero.noun}{hero}<start>。

start
    4 弄丢了一{+thing.mw}{thing.look}{thing}
    5 想去{+wish}
    4 (捡到|发现)了一{+foundling.mw}{foundling.look}{foundling}
    4 给{+kin}{+dish.made}

plot
    4 [thing] <clue><recovery><ending>
    1 [thing] “我的{thing}在哪儿？”{hero.ta}问{weather.noun}。<clue><recovery><ending>
    [wish] <aid><attempt><ending>
    3 [foundling] <gift><change><ending>
    1 [foundling] <gift><thanks>
    [dish] <beggar><sharing><ending>

clue
    2 一{+helper.mw}{helper.look}{helper}说：“去{+nest}找找吧。”
    2 “去{+nest}看看。”一{+helper.mw}{helper.look}{helper}说。
    2 一{+helper.mw}{helper}叫{hero.ta}去{+nest}找。

recovery
    2 {+hour after=$time}，{hero}果然在{nest}找到了那{thing.mw}{thing}。{luck=good}
    1 {+hour after=$time}，那{thing.mw}{thing}真的在{nest}。{luck=good}
    2 {+hour after=$time}，{hero.ta}在{nest}找到了{thing}，可是那{thing.mw}{thing}{thing.ruin}。{luck=bad}

aid
    5 {hero.ta}{+trouble.at}，一{+helper.mw}{helper.look}{helper}借给{hero.ta}一{+tool.mw fits=$trouble}{tool}。
    1 {hero.ta}{+trouble.at}。“拿上这{+tool.mw fits=$trouble}{tool}。”一{+helper.mw}{helper.look}{helper}说。

attempt
    3 {+hour after=$time dark=$wish.dark}，{hero}{trouble.past}，{wish.past}。{luck=good}
    2 {hero.ta}{trouble.past}，{+hour after=$time dark=$wish.dark}终于{wish.past}。{luck=good}
    3 可是那{tool.mw}{tool}{tool.fail}，{+hour after=$time}，{hero.ta}只好往回走。{luck=bad}

gift
    5 它{foundling.woe}，{hero}就给了它{+gift for=$foundling.need}。
    1 “我{foundling.woe}。”它小声说。{hero}给了它{+gift for=$foundling.need}。

change
    2 {+hour after=$time}，那{foundling.mw}{foundling}{foundling.deed}。{luck=good}
    1 {+hour after=$time}，它终于{foundling.deed}。{luck=good}

beggar
    2 路上，{hero.ta}遇见了一{+helper.mw}饿着肚子的{helper}。
    1 “我还没有吃饭。”路边一{+helper.mw}{helper.look}{helper}说。

sharing
    2 {hero}分给{helper}一半，{+hour after=$time}，{kin}吃到了{dish.rest}。{luck=good}
    1 {helper}把{dish}全吃光了，{+hour after=$time}，{kin}只收到一个空盘子。{luck=bad}

ending
    2 [luck=good trait] 从那{time.span}起，{hero}再也不{trait}了。
    1 [luck=good] “多好的一{time.span}啊！”{hero.ta}笑着说。
    2 [luck=good] {hero.ta}一路唱着歌走回了家。
    1 [luck=good hour.dark=no] 那天夜里，{hero.ta}睡得特别香。
    2 [luck=good helper] “谢谢你，{helper}！”{hero}说。
    1 [luck=good helper] 后来，{hero}和{helper}成了好朋友。
    3 [luck=good wish] {wish.result}。
    1 [luck=good wish] 第二天，{hero.ta}把那{tool.mw}{tool}还给了{helper}。
    3 [luck=good dish] {kin}笑着摆好了三双筷子。
    5 [foundling] <thanks>
    2 [luck=bad trait] {hero}还是那么{trait}，可是又长大了一点。
    1 [luck=bad] “唉，真是倒霉的一{time.span}。”{hero.ta}说。
    1 [luck=bad] {hero.ta}低着头慢慢走回了家。
    1 [luck=bad hour.dark=yes] {hero.ta}摸着黑走回了家。
    1 [luck=bad hour.dark=no] 那天夜里，{hero.ta}偷偷哭了一小会儿。
    2 [luck=bad wish] {hero.ta}没能{wish.bare}，却认识了{helper}。
    3 [luck=bad thing] {helper}说：“我陪你再做一{thing.mw}吧。”
    3 [luck=bad dish] “没关系。”{kin}说着，又下了一锅汤圆。

thanks
    [foundling=星星] 从此，每天晚上它都对着{hero}的窗户眨眼睛。
    [foundling=萤火虫] 从此，它成了{hero}床头的小夜灯。
    [foundling=蛋] 一条小龙钻出来，舔了舔{hero}的鼻子。
    [foundling=麻雀] 从此，每天清早它都来叫{hero}起床。
    [foundling=小猫] 从此，它每晚都睡在{hero}的枕头上。
    [foundling=云] 整个夏天，它都给{hero}的花园浇水。
    [foundling=种子] 后来，它长得比{hero}的屋顶还要高。
"""
